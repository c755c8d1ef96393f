"""Writes files whole or not at all: a reader finds the previous content or the new one, never a part of it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file can neither be locked like this nor renamed
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".saving"
_TOKEN = 8
_LONGEST = 255  # bytes of a name, on every usual file system
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of file systems that cannot sync


def write_whole(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Replace a file at once, with the new content on the disk before the previous one is gone.

    The content is written next to the file and renamed, so that a kill, a full disk or a power cut leaves the previous file,
    whatever ``$TMPDIR`` is. Remains of killed processes are removed; what others are writing stays. An existing file keeps
    its permissions. A symbolic link is replaced by the file, and its target stays; a device or a pipe is written to.

    Raises:
        OSError: It cannot be written; the previous content stays.
    """
    place = Path(path)
    if place.exists() and not place.is_file():
        with place.open("wb") as file:
            file.write(content)
        return
    try:
        remove_stale(place)
        _replace(place, content)
    except OSError as error:
        stays = "; the file that was there before stays as it was" if place.exists() else ""
        raise OSError(error.errno, f"{place} cannot be written: {error.strerror}{stays}") from error


def remove_stale(path: Path) -> None:
    """Remove what killed processes left next to a file while writing it; what is being written stays."""
    if fcntl is None:
        return
    before = _prefix(path.name)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(before) and name.endswith(_SUFFIX) and len(name) == len(before) + _TOKEN + len(_SUFFIX):
                _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    with suppress(OSError):  # locked by its writer, or already gone
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def _replace(path: Path, content: bytes | memoryview) -> None:
    with _beside(path) as (beside, descriptor):
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode != stat.S_IMODE(os.fstat(descriptor).st_mode):
                beside.chmod(mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
            if fcntl is not None:  # before the lock goes
                beside.replace(path)
        if fcntl is None:
            beside.replace(path)
    with suppress(OSError):  # where folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, int]]:
    """Open a new file next to one, locked, which is removed if an error ends the block; the block closes it."""
    while True:
        beside = path.with_name(f"{_prefix(path.name)}{secrets.token_hex(_TOKEN // 2)}{_SUFFIX}")
        try:
            # With the permissions that open() would give, unlike tempfile's.
            descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
            if _claim(descriptor):
                yield beside, descriptor
                return
            os.close(descriptor)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise


def _claim(descriptor: int) -> bool:
    """Lock a new file; return False if another process has taken it for a stale one in between."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, on which nothing counts as stale either
        return True
    return os.fstat(descriptor).st_nlink > 0


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _prefix(name: str) -> str:
    room = _LONGEST - _TOKEN - len(_SUFFIX) - 2
    if len(os.fsencode(name)) <= room:
        return f".{name}."
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    kept = os.fsencode(name)[: room - len(digest) - 1].decode(errors="ignore")
    return f".{kept}~{digest}."
