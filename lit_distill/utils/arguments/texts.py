"""Checks of names, keys and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lit_distill.utils.arguments.described import described, wrong_type
from lit_distill.utils.names import nearest


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value outside its choices.

    Raises:
        ValueError: The value is none of the choices; the nearest is named.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    if value not in choices:
        hint = nearest(value, choices) or nearest(value.lower(), choices)
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.{hint}")


def check_text(name: str, value: Any, example: str) -> str:
    """Return a text that is not empty.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty.
    """
    if not isinstance(value, str):
        raise wrong_type(name, value, f"give {example}.")
    if not value.strip():
        raise ValueError(f"{name} is empty; give {example}.")
    return value


def check_entry(name: str, entry: object) -> None:
    """Refuse a value that cannot name an entry of a batch or of an output.

    Args:
        name: The argument's name.
        entry: A key, an index, a function that finds the entry, or None for automatic.

    Raises:
        TypeError: It is something else.
    """
    read = entry is None or isinstance(entry, (str, int)) or callable(entry)
    if not read or isinstance(entry, (type, bool)):
        raise wrong_type(name, entry, "give a key, an index, or a function.")


def check_named(name: str, value: Any, example: str) -> None:
    """Refuse a value that is no mapping from names.

    Args:
        name: The argument's name.
        value: A dict or another mapping, or an ``nn.ModuleDict``.
        example: A dict that would be right, for the error.

    Raises:
        TypeError: It is no mapping, or a key is no text.
    """
    if isinstance(value, type) or not isinstance(value, (Mapping, nn.ModuleDict)):
        raise wrong_type(name, value, f"give a dict by name: {example}.")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} has a key that is {described(key)}; its keys are names: {example}.")


def check_folder(root: Any) -> str | Path:
    """Return the path of a data set's folder, which need not exist yet.

    Raises:
        TypeError: It is no path.
    """
    if not isinstance(root, (str, Path)):
        raise wrong_type("root", root, "give the path of a folder.")
    return root


def layer_tuple(layers: Any, name: str) -> tuple[str, ...]:
    """Return one or more layer references as a tuple.

    Raises:
        TypeError: There is something else among them.
        ValueError: There is none, or an empty one.
    """
    found = layers if isinstance(layers, (list, tuple)) else tuple(layers) if _is_list(layers) else (layers,)
    if not found:
        raise ValueError(f"{name} names no layer.")
    example = "a layer's name, such as 'layer3', or a list of names"
    return tuple(check_text(name, layer, example) for layer in found)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
