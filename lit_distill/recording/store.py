"""A recording on disk: a folder of NumPy files (shards), each with its SHA-256, and a manifest in JSON.

``numpy.load(file, mmap_mode="r")`` opens a shard, ``sha256sum -c *.sha256`` checks them all.
"""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from lit_distill.files.whole_file import write_whole
from lit_distill.recording.encoding import Rows
from lit_distill.recording.fingerprint import manifest_differences
from lit_distill.recording.manifest import MANIFEST, UNMARKED, DamagedRecording, has_manifest, identity, read_manifest
from lit_distill.recording.plan import Layout

_OF = "# of recording "
_PASSING = (".lock", ".partial", ".saving")  # files that are no part of a recording


class StaleRecording(ValueError):
    """Raised if a recording was made with another teacher, other data or other settings."""


class RecordingStore(ABC):
    """A place for the rows of a recording."""

    def __init__(self, layout: Layout, dtype: np.dtype[Any]) -> None:
        self._layout, self.dtype = layout, dtype

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there yet."""
        return [shard for shard in range(self._layout.shards) if not self._is_there(shard)]

    @abstractmethod
    def claim(self, shard: int) -> Claim | None:
        """Claim the right to write a shard; return None if it is there, or another process has the right."""

    @abstractmethod
    def write(self, shard: int, rows: Rows) -> None:
        """Store a whole shard at once."""

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return the given rows."""
        found = np.empty(len(rows), self.dtype)
        for shard, places, inside in self._layout.split(rows):
            found[places] = self._shard(shard)[inside]
        return found

    @abstractmethod
    def _is_there(self, shard: int) -> bool: ...

    @abstractmethod
    def _shard(self, shard: int) -> Rows: ...


class Claim:
    """The right to write a shard, until it is released or the process ends in any way."""

    def __init__(self, lock: FileLock | None = None) -> None:
        self._lock = lock

    def release(self) -> None:
        """Release the right."""
        if self._lock is not None:
            self._lock.release()


class MemoryStore(RecordingStore):
    """A recording that lasts as long as the process.

    Args:
        layout: The shards.
        dtype: The type of a row.

    Example:
        >>> from lit_distill.recording.plan import Plan
        >>> layout = Layout(Plan(samples=3, views=1, batch_size=2))
        >>> store = MemoryStore(layout, np.dtype([("logits", "f4", 2)]))
        >>> store.write(0, np.ones(3, store.dtype))
        >>> store.missing(), store.read(np.asarray([2]))["logits"].tolist()
        ([], [[1.0, 1.0]])
    """

    def __init__(self, layout: Layout, dtype: np.dtype[Any]) -> None:
        super().__init__(layout, dtype)
        self._shards: dict[int, Rows] = {}

    def claim(self, shard: int) -> Claim | None:
        return Claim()

    def write(self, shard: int, rows: Rows) -> None:
        self._shards[shard] = rows

    def _is_there(self, shard: int) -> bool:
        return shard in self._shards

    def _shard(self, shard: int) -> Rows:
        return self._shards[shard]


class FolderStore(RecordingStore):
    """A recording in a folder, shared by every process that names it.

    Args:
        folder: The folder; created if missing.
        layout: The shards.
        dtype: The type of a row.
        manifest: The identity of the recording, as plain types.

    Raises:
        StaleRecording: The folder holds a recording of something else; what differs is listed.
        DamagedRecording: The manifest cannot be read.
        ValueError: The folder holds files of another kind.

    Example:
        >>> import tempfile
        >>> from lit_distill.recording.plan import Plan
        >>> layout, dtype = Layout(Plan(samples=3, views=1, batch_size=2)), np.dtype([("logits", "f4", 2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     FolderStore(Path(folder), layout, dtype, {"teacher": "a"}).write(0, np.zeros(3, dtype))
        ...     FolderStore(Path(folder), layout, dtype, {"teacher": "a"}).missing()  # another process opens it
        []
    """

    def __init__(self, folder: Path, layout: Layout, dtype: np.dtype[Any], manifest: Mapping[str, Any]) -> None:
        super().__init__(layout, dtype)
        self.folder = folder
        self._open: dict[int, Rows] = {}
        self._identity = identity(manifest) if manifest.get("format") != UNMARKED else None
        if has_manifest(folder):  # a finished recording may lie where nothing can be written
            _refuse_other(folder, manifest)
            return
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "manifest.lock"):
                if has_manifest(folder):  # written by another process in between
                    _refuse_other(folder, manifest)
                else:
                    _refuse_foreign(folder)
                    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())

    def claim(self, shard: int) -> Claim | None:
        with _explained(self.folder):
            lock = FileLock(f"{self._paths(shard)[0]}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                return None
        if self._is_there(shard):  # finished by another process in between
            lock.release()
            return None
        return Claim(lock)

    def write(self, shard: int, rows: Rows) -> None:
        """Store a whole shard at once; a process that is cut off leaves none.

        Raises:
            OSError: It cannot be written; finished shards stay.
        """
        path, noted = self._paths(shard)
        with _explained(self.folder):
            content = io.BytesIO()  # NumPy's own writing to a file does not say why it failed
            np.lib.format.write_array(content, rows, allow_pickle=False)
            digest = hashlib.sha256(content.getbuffer()).hexdigest()
            try:
                write_whole(noted, self._note(digest, path).encode())  # before the shard, which counts only with it
                write_whole(path, content.getbuffer())
            except OSError:
                with suppress(OSError):
                    noted.unlink()
                raise
        with suppress(OSError):  # no longer needed: a process that waits for it finds the shard
            path.with_suffix(".npy.lock").unlink()

    def verify(self, share: int = 0, of: int = 1) -> None:
        """Compare the shards that are there with their checksums.

        Args:
            share: The index of the part to check; processes divide the work.
            of: Number of parts.
        """
        for shard in range(share, self._layout.shards, of):
            if self._is_there(shard):
                self._verify(*self._paths(shard))
                continue
            for path in self._paths(shard):
                if path.is_dir():
                    raise DamagedRecording(f"{path} is a folder where a file belongs. Delete it and run again.")

    def _verify(self, path: Path, note: Path) -> None:
        try:
            lines = note.read_text().splitlines()
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedRecording(
                f"{note} or {path.name} cannot be read: {error}. Delete both and run again."
            ) from error
        if lines == self._note(digest, path).splitlines():
            return
        if lines[-1:] == [f"{digest}  {path.name}"] and len(lines) > 1 and lines[0].startswith(_OF):
            raise DamagedRecording(
                f"{path} is of another recording than the one that {MANIFEST} describes. Delete that file and run again: it "
                "alone is recorded anew."
            )
        raise DamagedRecording(
            f"{path} is damaged: its SHA-256 is not the one that was noted when it was written. Delete that "
            "file and run again: it alone is recorded anew."
        )

    def _note(self, digest: str, path: Path) -> str:
        """Return a shard's checksum file in the form that ``sha256sum --check`` reads; it skips the first line."""
        of = f"{_OF}{self._identity}\n" if self._identity is not None else ""
        return f"{of}{digest}  {path.name}\n"

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.suffix not in _PASSING)

    def _paths(self, shard: int) -> tuple[Path, Path]:
        """Return the paths of a shard and of its checksum."""
        path = self.folder / f"shard-{shard:05d}.npy"
        return path, path.with_suffix(".npy.sha256")

    def _is_there(self, shard: int) -> bool:
        return all(path.is_file() for path in self._paths(shard))

    def _shard(self, shard: int) -> Rows:
        if shard not in self._open:
            path, _ = self._paths(shard)
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DamagedRecording(f"{path} cannot be read: {error}. Delete that file and run again.") from error
            if rows.dtype != self.dtype or rows.shape != (self._layout.size(shard),):
                raise DamagedRecording(
                    f"{path} has other rows than the manifest says. Delete {self.folder} and record again."
                )
            self._open[shard] = rows
        return self._open[shard]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
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


def stale(folder: Path | None, differ: list[str]) -> StaleRecording:
    """Return the refusal of a recording, with a line for each difference."""
    return StaleRecording(
        f"the recording in {folder} does not match this run:\n  " + "\n  ".join(differ) + "\n"
        "Use the settings that it was made with, name another folder, or delete it to record anew."
    )


def _refuse_other(folder: Path, manifest: Mapping[str, Any]) -> None:
    differ = manifest_differences(read_manifest(folder), manifest)
    if differ:
        raise stale(folder, differ)


def _refuse_foreign(folder: Path) -> None:
    others = [path.name for path in folder.iterdir() if not path.name.endswith(_PASSING)]
    if others:
        raise ValueError(f"{folder} is not a recording: it has {others[0]!r} and no {MANIFEST}; name another folder.")
