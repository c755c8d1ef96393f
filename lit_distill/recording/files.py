"""Files of a recording: written whole or not at all, with errors that say what to do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Put a text in its place at once, on the disk before it is seen.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Say of what cannot be written that it belongs to a recording, and what to do."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename).name if isinstance(error.filename, str) else ""
        raise type(error)(
            error.errno,
            f"the recording in {folder} cannot be written: {error.strerror}{f' ({where})' * bool(where)}. What is finished "
            "stays; free some space, or name another folder, and run again: it goes on from there",
        ) from error
