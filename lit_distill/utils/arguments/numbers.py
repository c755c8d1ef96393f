"""Checks of numbers."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lit_distill.utils.arguments.described import wrong_type

_SHOWN = 40  # characters of a text


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number in its range, as a float; ``above`` and ``below`` are bounds that it must not reach."""
    number = as_float(name, value)
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        raise ValueError(f"{name} must be {_range(least, above, most, below)}, not {value}.")
    return number


def as_float(name: str, value: Any) -> float:
    """Return an int, a float, or a number of NumPy or torch as a float; infinity and NaN are allowed."""
    learned = isinstance(value, Tensor) and value.requires_grad
    several = isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0
    if isinstance(value, (bool, np.bool_)) or not hasattr(type(value), "__float__") or learned or several:
        raise wrong_type(name, value, _as_number(value))
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # another NumPy scalar, a complex tensor
        raise wrong_type(name, value, "give a number.") from error


def _as_number(value: Any) -> str:
    if isinstance(value, str):
        try:
            return f"give the number, {float(value):g}, instead of the text {value!r}."
        except ValueError:
            return f"give a number instead of {value[:_SHOWN]!r}."
    if isinstance(value, Tensor) and value.requires_grad:
        return "give a plain number: what is learned belongs into a criterion of its own."
    return "give a number."


def _range(least: float, above: float, most: float, below: float) -> str:
    low = f"[{least:g}" if least > above else f"({above:g}"
    high = f"{most:g}]" if most < below else f"{below:g})"
    if math.isfinite(min(most, below)):
        return f"in {low}, {high}"
    if math.isfinite(least):
        return f"finite and at least {least:g}"
    return f"above {above:g} and finite" if math.isfinite(above) else "finite"


def check_whole(name: str, value: Any, *, least: int | None = None) -> int:
    """Return a whole number, which may be a float without a fraction, as an int."""
    number = as_float(name, value)
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number, not {value}.")
    whole = int(value) if isinstance(value, numbers.Integral) else int(number)  # a large one is no float
    if least is not None and whole < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return whole


def check_size(name: str, value: Any) -> int:
    """Return a number of channels, classes or layers, at least 1, as an int."""
    return check_whole(name, value, least=1)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False; refuse a text, because ``"false"`` would count as True."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise wrong_type(name, value, "give True or False.")


def check_temperature(temperature: Any, name: str = "temperature") -> float:
    """Return a finite temperature above 0, as a float."""
    return check_number(name, temperature, above=0)


def check_share(name: str, share: Any) -> float:
    """Return the weight of one term of a criterion, at least 0, as a float."""
    return check_number(name, share, least=0)


def check_shares(shares: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the weights of a criterion's terms, as floats; refuse weights that are all 0."""
    found = tuple(check_share(name, share) for name, share in shares.items())
    if not any(found):
        raise ValueError(f"{' and '.join(shares)} are all 0: nothing would be compared.")
    return found


def check_numbers(name: str, values: Any, *, least: float = -math.inf, above: float = -math.inf) -> list[float]:
    """Return a list, a tuple, or a one-dimensional array or tensor of finite numbers in the range as a list of floats."""
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 1:
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise wrong_type(name, values, "give a list of numbers.")
    return [check_number(f"{name}[{index}]", one, least=least, above=above) for index, one in enumerate(values)]


def check_temperatures(temperatures: Any) -> tuple[float, ...]:
    """Return one or more valid temperatures, as floats."""
    found = tuple(check_numbers("temperatures", temperatures, above=0))
    if not found:
        raise ValueError("temperatures must name at least one.")
    return found
