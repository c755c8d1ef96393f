"""Reads the names of classes from data."""

from __future__ import annotations

from typing import Any

_DEPTH = 8  # data sets in data sets


def class_names(*holders: Any) -> tuple[str, ...]:
    """Return the ``classes`` of the first holder that names them, or of a data set inside one; none if none does.

    Args:
        holders: DataModules and data sets; the outermost are asked first, and None is passed over.

    Example:
        >>> from types import SimpleNamespace
        >>> class_names(None, SimpleNamespace(dataset=SimpleNamespace(classes=["cat", "dog"])))
        ('cat', 'dog')
    """
    waiting = list(holders)
    for _ in range(_DEPTH):
        for one in waiting:
            names = getattr(one, "classes", None)
            if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
        waiting = [inner for one in waiting for inner in _inside(one)]
    return ()


def _inside(holder: Any) -> list[Any]:
    """Return the data sets in a subset, in a concatenation, or in another wrapper."""
    many = getattr(holder, "datasets", None)
    one = getattr(holder, "dataset", None)
    return [*(many if isinstance(many, (list, tuple)) else []), *([one] if one is not None else [])]
