"""The settings of a recording, with their checks."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_distill.recording.encoding import Formats


@dataclass(frozen=True)
class Settings:
    """The settings of a recording.

    Attributes:
        path: Its folder, a string or a path; in memory if None.
        views: Number of views per sample; None if samples never change.
        seed: The seed of the views.
        formats: The stored types.
        ignore_versions: Accept a recording that other versions of PyTorch and other packages have made.

    Raises:
        TypeError: One is of another type.
        ValueError: One is out of range.
    """

    path: Path | None
    views: int | None
    seed: int
    formats: Formats
    ignore_versions: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _folder(self.path))
        object.__setattr__(self, "views", whole_or_none("views", self.views, "the number of views of each sample"))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, "the seed of the views", least=None))
        object.__setattr__(self, "ignore_versions", switch("ignore_versions", self.ignore_versions))


def whole_number(name: str, value: Any, what: str, least: int | None = 1) -> int:
    """Return a whole number of any kind as Python's own, which JSON can hold.

    Raises:
        TypeError: It is something else, such as True or 10.0.
        ValueError: It is smaller than the least.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"RecordedTeacher: {name} is {value!r}, a {type(value).__name__}; give a whole number, {what}."
        ) from None
    if least is not None and number < least:
        raise ValueError(f"RecordedTeacher: {name} must be at least {least}, not {number}.")
    return number


def whole_or_none(name: str, value: Any, what: str) -> int | None:
    """Return None for None, and else ``whole_number``."""
    return None if value is None else whole_number(name, value, what)


def switch(name: str, value: Any) -> bool:
    """Return True or False as Python's own; refuse anything else, as ``"false"`` would count as true.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"RecordedTeacher: {name} is {value!r}, a {type(value).__name__}; give True or False.")
    return bool(value)


def _folder(path: Any) -> Path | None:
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise TypeError(
            f"RecordedTeacher: path is a {type(path).__name__}; give the recording's folder, or None for memory."
        )
    if isinstance(path, str) and not path.strip():
        raise ValueError("RecordedTeacher: path is empty; give the recording's folder, or None for memory.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"RecordedTeacher: path {folder} is a file; give a folder, which is made where it is missing.")
    return folder
