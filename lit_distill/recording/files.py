"""Errors of writing a recording, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Explain errors of writing: that the file belongs to a recording, and what to do."""
    try:
        yield
    except OSError as error:
        first = error.__cause__ if isinstance(error.__cause__, OSError) else error
        where = Path(first.filename).name if isinstance(first.filename, str) else ""
        raise type(error)(
            error.errno,
            f"the recording in {folder} cannot be written: {first.strerror}{f' ({where})' * bool(where)}. What is finished "
            "stays; free some space, or name another folder, and run again: it goes on from there",
        ) from error
