"""A program of ``torch.export``: ``.pt2``, for any later step in PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.inference import Job
from lit_distill.export.target import Target
from lit_distill.export.tracing import trace


class TorchExport(Target):
    """Writes a program of ``torch.export``."""

    name = "torch_export"
    suffix = ".pt2"

    def write(self, job: Job, path: Path) -> None:
        torch.export.save(trace(job), path)

    def load(self, path: Path, signature: FileSignature) -> Exported:
        return _Program(path, signature)


class _Program(Exported):
    def __init__(self, path: Path, signature: FileSignature) -> None:
        super().__init__(path, signature)
        self._program = torch.export.load(path).module()

    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            found: tuple[Tensor, ...] = self._program(*inputs)
        return found
