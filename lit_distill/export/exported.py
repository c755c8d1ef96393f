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
    """

    inputs: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    types: tuple[str, ...]
    outputs: tuple[str, ...] = ("logits",)

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
            inputs: In the order of ``signature.inputs``, ``[B, …]`` each; a file for a fixed batch runs several times.
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
        parts = [inputs] if size is None else list(zip(*(torch.split(each, size) for each in inputs), strict=True))
        found = [self.call(tuple(part)) for part in parts]
        return {
            name: torch.cat(each) for name, each in zip(self.signature.outputs, zip(*found, strict=True), strict=True)
        }
