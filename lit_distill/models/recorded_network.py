"""The name of the network that a checkpoint of ``lit-distill fit`` holds, read from the settings that it keeps.

Only names are read, never classes: a file must not choose what code runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_distill.files.checkpoint_file import read_checkpoint

_MAKER = "named_model"
_SETTINGS = "hyper_parameters"
_OWNERS = ("student", "model")  # the argument of a module that holds the network that it trains


def name_in_checkpoint(path: Path, inside: str | None) -> tuple[str, str]:
    """Return the name of a checkpoint's network without its weights, and its prefix.

    Raises:
        ValueError: The checkpoint does not say which network it holds.
    """
    content = read_checkpoint(path) if path.suffix != ".safetensors" else {}
    settings = content.get(_SETTINGS) if isinstance(content, Mapping) else None
    owners = _OWNERS if inside in (None, "student") else (inside,)
    for owner in owners:
        given = settings.get(owner) if isinstance(settings, Mapping) else None
        for name in _names(given):
            return _without_weights(name), "student" if owner in _OWNERS else owner
    whose, prefix = (f" as {inside!r}", f"#{inside}") if inside else ("", "")
    raise ValueError(
        f"{path} does not say which network it holds{whose}; write its name before the file, such as "
        f"timm:resnet50@{path}{prefix}."
    )


def _names(value: Any) -> Iterator[str]:
    """Yield the names of networks in a setting, the outermost first."""
    if not isinstance(value, Mapping):
        return
    options = value.get("init_args")
    if str(value.get("class_path", "")).rpartition(".")[2] == _MAKER and isinstance(options, Mapping):
        if isinstance(options.get("name"), str):
            yield options["name"]
        return
    for inner in value.values():
        yield from _names(inner)


def _without_weights(name: str) -> str:
    architecture = name.partition("@")[0]
    return f"{architecture}@random" if ":" in architecture else architecture
