"""The settings of a recording, with their checks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_distill.recording.encoding import Formats
from lit_distill.utils.arguments import check_flag, check_whole


@dataclass(frozen=True)
class Settings:
    """Holds what ``RecordedTeacher`` was given, checked.

    The folder may be given as a string; in memory if None. ``views`` is None if samples never change.
    """

    path: Path | None
    views: int | None
    seed: int
    formats: Formats
    ignore_versions: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _folder(self.path))
        if self.views is not None:
            object.__setattr__(self, "views", check_whole("RecordedTeacher: views", self.views, least=1))
        object.__setattr__(self, "seed", check_whole("RecordedTeacher: seed", self.seed))
        accepted = check_flag("RecordedTeacher: ignore_versions", self.ignore_versions)
        object.__setattr__(self, "ignore_versions", accepted)


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
