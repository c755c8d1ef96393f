"""The soft-target loss over a large vocabulary, forward and backward: peak memory and time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_distill import Outputs, SoftTarget
from measure.job import TEMPERATURE, Job
from measure.loops import device, soft_loss
from measure.memory import Peak, measure_peak
from measure.process import Failure, alone
from measure.rounds import now

Loss = Callable[[Tensor, Tensor], Tensor]
_ROUNDS = 5


@dataclass(frozen=True)
class LossFigures:
    """Both losses on the same logits.

    Attributes:
        tokens: Rows of logits.
        classes: Columns.
        inputs: Bytes of both networks' logits.
        naive: Peak of ``kl_div`` of ``log_softmax`` and ``softmax``.
        ours: Peak of ``SoftTarget``.
        naive_seconds: Of each round.
        ours_seconds: Of each round.
    """

    tokens: int
    classes: int
    inputs: int
    naive: Peak
    ours: Peak
    naive_seconds: list[float]
    ours_seconds: list[float]

    @property
    def memory_ratio(self) -> float:
        """What ours holds above the inputs, by what the naive one does."""
        return self.ours.above / self.naive.above

    @property
    def memory_ratio_with_inputs(self) -> float:
        return (self.ours.above + self.inputs) / (self.naive.above + self.inputs)

    @property
    def time_ratio(self) -> float:
        """Ours by the naive one; below 1 is faster."""
        pairs = zip(self.ours_seconds, self.naive_seconds, strict=True)
        return statistics.median(ours / naive for ours, naive in pairs)


def ours(student: Tensor, teacher: Tensor) -> Tensor:
    value: Tensor = SoftTarget(TEMPERATURE)(Outputs(student), Outputs(teacher), None)
    return value


LOSSES: dict[str, Loss] = {"naive": soft_loss, "ours": ours}


def _logits(tokens: int, classes: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student = torch.randn(tokens, classes, device=device())
    return student.requires_grad_(), torch.randn(tokens, classes, device=device())


def _both_ways(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    loss(student, teacher).backward()  # type: ignore[no-untyped-call]


def peak_of(name: str, tokens: int, classes: int) -> Peak:
    """Peak memory of one loss, forward and backward, the gradient of the student's logits included."""
    _both_ways(LOSSES[name], *_logits(2, 8))  # libraries that are loaded on first use
    student, teacher = _logits(tokens, classes)
    return measure_peak(lambda: _both_ways(LOSSES[name], student, teacher))


def seconds_of(tokens: int, classes: int) -> dict[str, list[float]]:
    """Seconds of both losses, in turn on the same logits."""
    student, teacher = _logits(tokens, classes)
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for index in range(_ROUNDS + 1):
        for name, loss in LOSSES.items():
            begun = now()
            _both_ways(loss, student, teacher)
            if index:  # the first round warms up
                seconds[name].append(now() - begun)
    return seconds


def measure_loss(job: Job) -> LossFigures | Failure:
    tokens, classes = (64, 2000) if job.smoke else (4096, 128_000)
    answers: list[Any] = []
    for name in LOSSES:
        answers.append(alone(f"loss memory {name}", peak_of, (name, tokens, classes), job.folder))
    answers.append(alone("loss time", seconds_of, (tokens, classes), job.folder))
    failure = next((answer for answer in answers if isinstance(answer, Failure)), None)
    if failure is not None:
        return failure
    naive, own, seconds = answers
    return LossFigures(tokens, classes, 2 * 4 * tokens * classes, naive, own, seconds["naive"], seconds["ours"])
