"""Runs a file of tests as if it were written for ``pytorch_lightning``, the other name of the same library."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning  # noqa: F401

_RENAMED = {
    "lightning.pytorch": "pytorch_lightning",
    "class_path: lit_distill.Distill": "class_path: lit_distill.pytorch_lightning.Distill",
}


def load(name: str, **replaced: str) -> dict[str, Any]:
    """What a module defines once its imports name the other package.

    Args:
        name: The module's, ``tests.callbacks.guests``.
        replaced: More to replace in its source.

    Returns:
        Its names; it can be imported as ``<name>_of_pytorch_lightning`` from now on.
    """
    path = Path(__file__).parents[1] / f"{name.replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    for old, new in {**_RENAMED, **replaced}.items():
        source = source.replace(old, new)
    module = ModuleType(f"{name}_of_pytorch_lightning")
    sys.modules[module.__name__] = module
    exec(compile(source, str(path), "exec"), vars(module))
    return vars(module)


def renamed_tests(name: str, **replaced: str) -> dict[str, Any]:
    """The tests of such a module, by names that no other file's have.

    Args:
        name: As for ``load``.
        replaced: As for ``load``.
    """
    last = name.rpartition(".")[2]
    return {f"{key}__{last}": one for key, one in load(name, **replaced).items() if key.lower().startswith("test")}
