"""Comparison of nested mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def differing(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    comparable: Callable[[Any], Any] = lambda value: value,
    union: bool = False,
    path: str = "",
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted path and both values wherever two nested mappings, at ``path``, differ.

    Keys that only one of the two has are left out, unless ``union`` compares them with None. Values are made ``comparable``
    first.
    """
    for key in dict.fromkeys([*before, *now]):
        if not union and not (key in before and key in now):
            continue
        one, other, name = before.get(key), now.get(key), f"{path}.{key}" if path else str(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differing(one, other, comparable, union, name)
        elif comparable(one) != comparable(other):
            yield name, one, other
