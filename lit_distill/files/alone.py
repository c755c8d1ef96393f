"""Keeps a second run of the same command out of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone_in(folder: Path, lock: str, what: str) -> Iterator[None]:
    """Make a folder, and hold its lock.

    Args:
        folder: Where the run writes.
        lock: The lock's file in it.
        what: The kind of run, for the error: ``chain``.

    Raises:
        ValueError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another {what} is running in {folder} (it holds {error.lock_file}).") from error
    try:
        yield
    finally:
        held.release()
