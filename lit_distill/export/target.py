"""What every target has in common, and how a missing package or compiler is refused."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.inference import Job


class MissingPackageError(ImportError):
    """A package that a target needs is not installed; the message has the line that installs it."""


@dataclass(frozen=True)
class Compared:
    """What is compared with the student: the file, or what stands for a file that no runtime here runs.

    Attributes:
        runs: It.
        what: Its name.
        said: What was read back from the file, as plain values, for the JSON file.
        is_file: It is the file itself, whose time counts.
    """

    runs: Exported
    what: str
    said: Mapping[str, Any]
    is_file: bool = False


class Target(ABC):
    """A kind of file, and the runtime that it is read back with.

    Attributes:
        name: As ``--target`` takes it.
        suffix: Of the file.
        precisions: That it can be written in.
        dynamic: What it can take any size of.
        plans_memory: True if its runtime plans its memory for a largest batch and size.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    dynamic: ClassVar[tuple[str, ...]] = ("batch", "size")
    plans_memory: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ()
    extra: ClassVar[str] = ""

    def check(self) -> None:
        """Refuse a machine that lacks what the target needs.

        Raises:
            MissingPackageError: A package is not installed.
            ValueError: Something else is missing, such as a compiler.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise MissingPackageError(
                f"the target {self.name!r} needs {', '.join(missing)}: pip install 'lit-distill[{self.extra}]'"
            )

    @abstractmethod
    def write(self, job: Job, path: Path) -> Compared | None:
        """Write a file; the caller has checked the precision, and removes what an error leaves.

        Returns:
            None, or what is compared in the file's place if no runtime here runs it.

        Raises:
            ValueError: The student cannot be written: what cannot, and what to change.
        """

    def write_and_load(self, job: Job, path: Path) -> Compared:
        """Write a file, and return what is compared with the student.

        Raises:
            ValueError: The student cannot be written.
        """
        return self.write(job, path) or Compared(self.load(path, job.signature), "file", {}, is_file=True)

    @abstractmethod
    def load(self, path: Path, signature: FileSignature) -> Exported:
        """Load a file that this target has written, with one thread."""
