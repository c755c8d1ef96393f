"""Values in words, for errors."""

from __future__ import annotations

import functools
import inspect

import numpy as np
from torch import Tensor


def described(value: object) -> str:
    """Describe a value in words that can stand in a sentence: ``a str``, ``the class SoftTarget``, ``None``."""
    if value is None or isinstance(value, type) or inspect.isroutine(value):
        return _named(value)
    kind = "partial" if isinstance(value, functools.partial) else type(value).__name__
    detail = ""
    if isinstance(value, (Tensor, np.ndarray)):
        detail = f" of shape {list(value.shape)}"
    elif isinstance(value, functools.partial):
        detail = f" of {getattr(value.func, '__name__', value.func)}"
    return f"{article(kind)} {kind}{detail}"


def _named(value: object) -> str:
    if value is None:
        return "None"
    what = "class" if isinstance(value, type) else "function"
    return f"the {what} {getattr(value, '__name__', value)}"


def article(word: str) -> str:
    """Return the indefinite article for a word."""
    return "an" if word[:1].lower() in "aeio" else "a"


def wrong_type(name: str, value: object, remedy: str) -> TypeError:
    """Return the error that says what an argument is and what to give instead."""
    return TypeError(f"{name} is {described(value)}; {remedy}")
