"""Bytes of a recording against those of float32 logits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation, RecordedTeacher
from measure.job import Job
from measure.loops import make_trainer
from measure.process import Failure, alone

KINDS = ("float32", "float16", "int8", "top_k")
_TOP = 10


@dataclass(frozen=True)
class Recording:
    """A recording of synthetic logits.

    Attributes:
        classes: Of the logits.
        kind: The stored format.
        samples: Recorded, one view of each.
        size: Bytes of all its files.
    """

    classes: int
    kind: str
    samples: int
    size: int

    @property
    def of_float32(self) -> float:
        """Its size by that of the bare float32 logits."""
        return self.size / (4 * self.classes * self.samples)


@dataclass
class Disk:
    """All recordings, and why some are missing."""

    recordings: list[Recording] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)


def make_teacher(path: str, kind: str) -> RecordedTeacher:
    """A teacher whose inputs are its logits."""
    if kind == "float32":
        return RecordedTeacher(nn.Identity(), path=path, views=1, logits="float32")
    if kind == "float16":
        return RecordedTeacher(nn.Identity(), path=path, views=1, logits="float16")
    if kind == "int8":
        return RecordedTeacher(nn.Identity(), path=path, views=1, logits="int8")
    return RecordedTeacher(nn.Identity(), path=path, views=1, logits="top_k", top_k=_TOP)


def record(job: Job, classes: int, kind: str) -> Recording:
    """Record logits that the data hold themselves, and count the files' bytes."""
    torch.manual_seed(0)
    samples = 256 if job.smoke else 20_000
    data = TensorDataset(3 * torch.randn(samples, classes), torch.randint(0, classes, (samples,)))
    folder = Path(job.out) / "recordings" / f"{classes}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    module = LogitDistillation(nn.Linear(classes, classes), make_teacher(str(folder), kind), optimizer=job.optimizer)
    trainer = make_trainer(job, f"disk-{classes}-{kind}", 1, [], steps=1)
    trainer.fit(module, DataLoader(data, 1024, shuffle=True))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Recording(classes, kind, samples, size)


def measure_disk(job: Job) -> Disk:
    found = Disk()
    for classes in (10, 1000):
        for kind in KINDS:
            name = f"{classes} classes, {kind}"
            answer: Any = alone(f"disk {name}", record, (job, classes, kind), job.folder)
            if isinstance(answer, Failure):
                found.failures[name] = answer
            else:
                found.recordings.append(answer)
    return found


def table_rows(found: Disk) -> list[list[str]]:
    return [
        [
            f"{one.classes:,}",
            f"top {_TOP}" if one.kind == "top_k" else one.kind,
            f"{one.size / one.samples:,.1f}",
            f"{one.of_float32:.3f}",
        ]
        for one in found.recordings
    ]
