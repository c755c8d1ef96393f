"""Checks of names, keys and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lit_distill.utils.arguments.described import described, wrong_type
from lit_distill.utils.names import nearest


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value outside its choices with a ``ValueError``, also one of another type; name the nearest choice."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    if value not in choices:
        hint = nearest(value, choices) or nearest(value.lower(), choices)
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.{hint}")


def check_text(name: str, value: Any, example: str) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str):
        raise wrong_type(name, value, f"give {example}.")
    if not value.strip():
        raise ValueError(f"{name} is empty; give {example}.")
    return value


def check_entry(name: str, entry: object) -> None:
    """Refuse what cannot name an entry of a batch or of an output: a key, an index, a function, or None for automatic."""
    read = entry is None or isinstance(entry, (str, int)) or callable(entry)
    if not read or isinstance(entry, (type, bool)):
        raise wrong_type(name, entry, "give a key, an index, or a function.")


def check_named(name: str, value: Any, example: str) -> None:
    """Refuse a value that is no dict, other mapping or ``nn.ModuleDict`` from names; the error shows an example."""
    if isinstance(value, type) or not isinstance(value, (Mapping, nn.ModuleDict)):
        raise wrong_type(name, value, f"give a dict by name: {example}.")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} has a key that is {described(key)}; its keys are names: {example}.")


def check_folder(root: Any) -> str | Path:
    """Return the path of a data set's folder, which need not exist yet."""
    if not isinstance(root, (str, Path)):
        raise wrong_type("root", root, "give the path of a folder.")
    return root


def layer_tuple(layers: Any, name: str) -> tuple[str, ...]:
    """Return one or more layer references as a tuple."""
    several = isinstance(layers, Sequence) and not isinstance(layers, (str, bytes))
    found = tuple(layers) if several else (layers,)
    if not found:
        raise ValueError(f"{name} names no layer.")
    example = "a layer's name, such as 'layer3', or a list of names"
    return tuple(check_text(name, layer, example) for layer in found)
