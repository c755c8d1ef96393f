"""Conversion to plain types: checkpoints hold nothing else besides tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor, nn

_PLAIN = (int, float, str, bool, type(None))


def as_plain(value: Any) -> Any:
    """Convert a value, or a nested one, to plain types, as far as it has any.

    NumPy's numbers, fractions and decimals become Python's, arrays lists, enums their values, and paths text. What needs no
    change is returned as it is, and so are objects that have no plain form.
    """
    return _replaced(value, _plain)


def without_numpy_scalars(value: Any) -> Any:
    """Replace NumPy's scalars in a nested value by numbers; return the value itself if it has none."""
    return _replaced(value, _scalar)


def plain_number(value: Any) -> Any:
    """Convert a scalar or 0-d array of NumPy, a fraction or a decimal to a Python number; return all else as it is."""
    return float(value) if isinstance(value, (Fraction, Decimal)) else _scalar(value)


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, np.ndarray) and value.ndim:
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else plain_number(value)


def _replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Replace the leaves of a nested value; make new containers only where something changed, as those given may be in use."""
    if type(value) in _PLAIN or isinstance(value, (Tensor, nn.Module)):
        return value
    if isinstance(value, Mapping):
        entries = [(_replaced(key, replace), _replaced(entry, replace)) for key, entry in value.items()]
        changed = any(a is not c or b is not d for (a, b), (c, d) in zip(entries, value.items(), strict=True))
        return _mapping_like(value, dict(entries)) if changed else value
    if isinstance(value, (list, tuple)):
        items = [_replaced(item, replace) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (set, frozenset)):
        return type(value)(_replaced(item, replace) for item in value)
    return replace(value)


def _mapping_like(value: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    try:
        return type(value)(entries)  # type: ignore[call-arg]
    except TypeError:  # defaultdict, for one
        return entries


def make_settings_plain(module: nn.Module) -> None:
    """Convert the numbers that a module and its submodules hold as attributes to Python's."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name.startswith("_"):
                continue
            plain = without_numpy_scalars(value) if isinstance(value, (list, tuple)) else plain_number(value)
            if plain is not value:
                setattr(part, name, plain)


def make_scalars_plain(checkpoint: dict[str, Any]) -> None:
    """Replace NumPy's scalars in a checkpoint about to be saved by numbers, in place: a learning rate, a setting.

    Otherwise they would be pickled as objects, and safe loaders would refuse the checkpoint.
    """
    for key, value in checkpoint.items():
        checkpoint[key] = without_numpy_scalars(value)
