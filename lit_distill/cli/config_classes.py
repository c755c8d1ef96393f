"""Checks a config's sections and classes before the parser reads them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_distill.cli.bare_names import public_names
from lit_distill.utils.arguments import described
from lit_distill.utils.names import nearest

_KEYS = ("class_path", "init_args", "dict_kwargs")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_NEAR = 0.85
ENDINGS = (".yaml", ".yml", ".json")
WEIGHTS = (".ckpt", ".pt", ".pth", ".th", ".safetensors")
SECTIONS = ("model", "data", "trainer", "optimizer", "lr_scheduler", "seed_everything", "ckpt_path")


def check_sections(content: Any, where: str) -> None:
    """Refuse a misspelt section, a ``trainer`` that is no mapping, and callbacks in a file that is not there.

    Raises:
        ValueError: There is one.
    """
    if not isinstance(content, Mapping):
        return
    for name in content:
        hint = nearest(name, SECTIONS) if isinstance(name, str) and name not in SECTIONS else ""
        if hint:
            raise ValueError(f"{where}: there is no option {name!r}.{hint}")
    trainer = content.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, Mapping) else None
    if isinstance(callbacks, str) and callbacks.endswith(ENDINGS) and not (Path(where).parent / callbacks).is_file():
        raise ValueError(f"{where}: trainer.callbacks: there is no file {callbacks} (looked in {Path(where).parent}).")
    if trainer is not None and not isinstance(trainer, (Mapping, str)):
        raise ValueError(
            f"{where}: trainer is {described(trainer)}; a mapping (name: value) is needed: max_epochs: 10, say."
        )
    if isinstance(trainer, str) and not trainer.endswith(ENDINGS):
        raise ValueError(
            f"{where}: trainer is the text {trainer!r}; a mapping (name: value) is needed: max_epochs: 10, say."
        )


def check_classes(content: Any, where: str) -> None:
    """Refuse a class whose ``class_path`` or ``init_args`` no parser reads.

    Raises:
        ValueError: A ``class_path`` is no import path, its options are no mapping, or other keys are next to them.
    """
    for place, mapping in _mappings(content, ""):
        why = _wrong(mapping) if "class_path" in mapping else _misspelt(mapping)
        if why:
            raise ValueError(f"{where}: {place}: {why}" if place else f"{where}: {why}")


def _mappings(content: Any, place: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every mapping of a config and its place."""
    if isinstance(content, Mapping):
        yield place, content
        for key, value in content.items():
            yield from _mappings(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _mappings(value, f"{place}[{index}]")


def _wrong(mapping: Mapping[Any, Any]) -> str:
    """Return the error in how a class is written; empty if there is none."""
    path, options = mapping["class_path"], mapping.get("init_args")
    if not isinstance(path, str):
        return f"class_path is {described(path)}; write a class's import path, such as lit_distill.models.SmallCNN."
    if not _IMPORT_PATH.fullmatch(path):
        return (
            f"class_path {path!r} is no import path; write package.module.Class, such as lit_distill.models.SmallCNN."
        )
    if options is not None and not isinstance(options, Mapping):
        return f"init_args is {described(options)}; a mapping (name: value) is needed."
    return stray_keys(mapping)


def stray_keys(mapping: Mapping[Any, Any]) -> str:
    """Return the error for keys next to a class path that belong under its options; empty if there are none."""
    others = [key for key in mapping if key not in _KEYS]
    if not others:
        return ""
    several = ", ".join(map(repr, others))
    meant = difflib.get_close_matches(str(others[0]), _KEYS, 1, _NEAR)
    hint = f" Did you mean {meant[0]!r}?" if meant else ""
    return f"{several} {'stand' if len(others) > 1 else 'stands'} next to class_path; options go under init_args.{hint}"


def _misspelt(mapping: Mapping[Any, Any]) -> str:
    """Return an error if one of a mapping's keys is nearly ``class_path`` and holds the name of a class."""
    for key, value in mapping.items():
        name = str(key).lower().replace("-", "_").replace(" ", "_")
        near = difflib.SequenceMatcher(None, name, "class_path").ratio() >= _NEAR
        named = isinstance(value, str) and _IMPORT_PATH.fullmatch(value) and ("." in value or value in public_names())
        if near and named:
            return f"no option {key!r}. Did you mean 'class_path'?"
    return ""
