"""The one interface of every exported file: run it, and read what it takes and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class FileSignature:
    """What an exported file takes and returns.

    Attributes:
        inputs: Names of the inputs, in their order.
        shapes: Of each input; None where any size is taken.
        types: Of each input, as ``float32`` or ``int64``.
        outputs: Names of the outputs: ``logits``, or one a task.
        largest: The largest shape of each input, where the runtime plans its memory for it; None if there is no limit.
    """

    inputs: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    types: tuple[str, ...]
    outputs: tuple[str, ...] = ("logits",)
    largest: tuple[tuple[int, ...], ...] | None = None

    @property
    def batch(self) -> int | None:
        """The number of samples that each call takes; None if any."""
        return self.shapes[0][0]


class Exported(ABC):
    """A file that was exported, loaded by its own runtime.

    Attributes:
        path: The file.
        signature: What it takes and returns.
    """

    def __init__(self, path: Path, signature: FileSignature) -> None:
        self.path = path
        self.signature = signature

    @abstractmethod
    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run the file once, on inputs of the shapes that it takes."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the logits; with several tasks, the first one's.

        Args:
            inputs: In the order of ``signature.inputs``, ``[B, …]`` each; a file for a fixed or bounded batch runs several
                times.
        """
        return self.run_all(*inputs)[self.signature.outputs[0]]

    def run_all(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return every output by its name, for inputs as ``run`` takes them.

        Raises:
            ValueError: The number of inputs is wrong, or their number of samples no multiple of the file's batch.
        """
        if len(inputs) != len(self.signature.inputs):
            names = ", ".join(self.signature.inputs)
            raise ValueError(f"{self.path.name} takes {names}, and was given {len(inputs)} inputs.")
        size = self.signature.batch
        if size is not None and len(inputs[0]) % size:
            raise ValueError(f"{self.path.name} takes batches of {size}, and was given {len(inputs[0])} samples.")
        most = size if size is not None else max(len(inputs[0]), 1)
        if self.signature.largest is not None:
            most = min(most, self.signature.largest[0][0])
            self._check_limits(inputs)
        parts = zip(*(torch.split(each, most) for each in inputs), strict=True)
        found = [self.call(tuple(part)) for part in parts]
        return {
            name: torch.cat(each) for name, each in zip(self.signature.outputs, zip(*found, strict=True), strict=True)
        }

    def _check_limits(self, inputs: tuple[Tensor, ...]) -> None:
        """Refuse inputs whose sizes, apart from the number of samples, are larger than the file takes."""
        for name, given, most in zip(self.signature.inputs, inputs, self.signature.largest or (), strict=True):
            if any(size > limit for size, limit in zip(given.shape[1:], most[1:], strict=True)):
                raise ValueError(
                    f"{self.path.name} takes {name} of at most {list(most[1:])} a sample, not {list(given.shape[1:])}."
                )
