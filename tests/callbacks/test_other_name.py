"""Everything that ``Distill`` promises, in modules and Trainers of ``pytorch_lightning``, which many projects import."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning  # noqa: F401

_FOLDER = Path(__file__).parent
_RENAMED = {
    "lightning.pytorch": "pytorch_lightning",
    "tests.callbacks.guests": "tests.callbacks.guests_of_pytorch_lightning",
    "class_path: lit_distill.Distill": "class_path: lit_distill.pytorch_lightning.Distill",
}


def _load(name: str, loaded_as: str) -> dict[str, Any]:
    """A file of these tests as it were written for the other package."""
    path = _FOLDER / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    for old, new in _RENAMED.items():
        source = source.replace(old, new)
    module = ModuleType(loaded_as)
    sys.modules[loaded_as] = module
    exec(compile(source, str(path), "exec"), vars(module))
    return vars(module)


_load("guests", "tests.callbacks.guests_of_pytorch_lightning")
for _name in (
    "test_distill",
    "test_distill_checkpoints",
    "test_distill_refusals",
    "test_evaluation",
    "test_objects",
    "test_steps",
    "test_tuner",
):
    for _key, _value in _load(_name, f"tests.callbacks.{_name}_of_pytorch_lightning").items():
        if _key.lower().startswith("test"):
            globals()[f"{_key}__{_name}"] = _value
