"""How time and memory grow: with the batch, the classes, the criteria and the captured layers.

Each point trains a few steps through the Trainer in a process of its own, on inputs that lie in memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lit_distill import AttentionTransfer, Criterion, DistillationModule, HardTarget, Hint, SoftTarget
from lit_distill.models import MLP
from measure.job import Job
from measure.loops import make_trainer
from measure.memory import measure_peak
from measure.process import Failure, alone
from measure.rounds import now

_FEATURES = 64


@dataclass(frozen=True)
class Point:
    """One setting and what it cost.

    Attributes:
        setting: Value of the axis.
        images_per_second: By the median step.
        peak: Bytes above those held before the training.
    """

    setting: int
    images_per_second: float
    peak: int


@dataclass
class Growth:
    """An axis.

    Attributes:
        axis: What grows.
        points: In ascending order.
        failures: Of points that could not be measured.
    """

    axis: str
    points: list[Point] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Stopwatch(Callback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ends.append(now())

    def median_step(self) -> float:
        """Seconds; the first two steps warm up."""
        ends = self.ends[1:]
        return statistics.median(after - before for before, after in pairwise(ends))


def _train(job: Job, name: str, module: DistillationModule, inputs: torch.Tensor, classes: int, setting: int) -> Point:
    size, steps = len(inputs), 5 if job.smoke else 10
    labels = torch.randint(0, classes, (size,))
    batches = [(inputs, labels) for _ in range(steps)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    watch = Stopwatch()
    trainer = make_trainer(job, name, 1, [watch])
    peak = measure_peak(lambda: trainer.fit(module, loader))
    return Point(setting, size / watch.median_step(), peak.above)


def _images(size: int) -> torch.Tensor:
    return torch.rand(size, 3, 32, 32)


def with_batch(job: Job, setting: int) -> Point:
    """The reference job's networks at another batch size."""
    module = distillation(job, {"hard": HardTarget(), "soft": SoftTarget()})
    return _train(job, f"batch-{setting}", module, _images(setting), 10, setting)


def with_classes(job: Job, setting: int) -> Point:
    """Two perceptrons, whose last layers and logits are all that grows."""
    torch.manual_seed(0)
    teacher, student = MLP(_FEATURES, (256, 256), setting), MLP(_FEATURES, (64,), setting)
    criteria: dict[str, Criterion] = {"hard": HardTarget(), "soft": SoftTarget()}
    module = DistillationModule(student, teacher, criteria, dict.fromkeys(criteria, 0.5), optimizer=job.optimizer)
    return _train(job, f"classes-{setting}", module, torch.rand(128, _FEATURES), setting, setting)


def with_criteria(job: Job, setting: int) -> Point:
    """The first so many of six criteria; the last two read a layer of both networks."""
    every: dict[str, Criterion] = {
        "hard": HardTarget(),
        "soft": SoftTarget(4.0),
        "cold": SoftTarget(1.0),
        "reverse": SoftTarget(4.0, divergence="reverse"),
        "hint": Hint("layer2", "layer2", normalise="channel"),
        "attention": AttentionTransfer("layer3", "layer3"),
    }
    module = distillation(job, dict(list(every.items())[:setting]))
    return _train(job, f"criteria-{setting}", module, _images(job.batch_size), 10, setting)


def with_layers(job: Job, setting: int) -> Point:
    """Hints on so many of the blocks' layers, each with its projector."""
    criteria: dict[str, Criterion] = {"hard": HardTarget(), "soft": SoftTarget()}
    if setting:
        criteria["hint"] = Hint(*hinted(job, setting), normalise="channel")
    module = distillation(job, criteria)
    return _train(job, f"layers-{setting}", module, _images(job.batch_size), 10, setting)


def hinted(job: Job, count: int) -> tuple[list[str], list[str]]:
    """The first so many layers of the student, and those of the teacher at the same depth."""
    names: list[tuple[str, str]] = []
    student, teacher = (1, 1) if job.smoke else (3, 9)
    for stage in ("layer1", "layer2", "layer3"):
        for block in range(student):
            far = (block + 1) * teacher // student - 1
            names += [(f"{stage}.{block}{part}", f"{stage}.{far}{part}") for part in (".bn1", ".bn2", "")]
    chosen = names[:count]
    return [near for near, _ in chosen], [far for _, far in chosen]


def distillation(job: Job, criteria: dict[str, Criterion]) -> DistillationModule:
    torch.manual_seed(0)
    weights = dict.fromkeys(criteria, 1.0)
    return DistillationModule(job.student(), job.teacher(), criteria, weights, optimizer=job.optimizer)


AXES: dict[str, tuple[Callable[[Job, int], Point], list[int], list[int]]] = {
    "batch size": (with_batch, [32, 64, 128, 256, 512], [4, 8]),
    "classes": (with_classes, [10, 100, 1000, 10_000, 100_000], [10, 1000]),
    "criteria": (with_criteria, [1, 2, 3, 4, 5, 6], [1, 6]),
    "captured layers": (with_layers, [0, 1, 3, 9, 18, 27], [0, 3]),
}


def measure_growth(job: Job) -> list[Growth]:
    found = []
    for axis, (train, full, smoke) in AXES.items():
        growth = Growth(axis)
        for setting in smoke if job.smoke else full:
            answer = alone(f"growth {axis} {setting}", train, (job, setting), job.folder)
            if isinstance(answer, Failure):
                growth.failures.append(answer)
            else:
                growth.points.append(answer)
        found.append(growth)
    return found
