"""The score of each test sample, and differences of networks that are paired by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import counted_rows, labelled
from lit_distill.batch.labels import Task, positions, unknown
from lit_distill.compare.student_t import quantile
from lit_distill.criteria.base import at_least_float32
from lit_distill.reporting.sides import Role

# What is compared sample by sample: for each task, the metric that is the mean of its samples' scores.
SCORES: dict[Task, str] = {
    "multiclass": "accuracy",
    "binary": "accuracy",
    "multilabel": "accuracy",
    "regression": "mean_squared_error",
    "embedding": "cosine_similarity",
}
_NEARLY_NORMAL = 200  # degrees of freedom


@dataclass(frozen=True)
class SampleScores:
    """A network's scores.

    Attributes:
        total: Sum of the scores of each sample's positions, ``[N]``.
        count: Their number, ``[N]``; 0 for a sample without known labels.
    """

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class Gap:
    """The student's score minus another network's, on the same samples.

    Attributes:
        against: The other network's role.
        metric: What the scores are.
        difference: Of the means over all positions.
        standard_error: Of the difference, over the samples; 0 if the two score alike on every one.
        samples: Their number.

    Example:
        >>> gap = Gap("teacher", "accuracy", -0.02, 0.005, 1000)
        >>> [round(end, 3) for end in gap.interval()]
        [-0.03, -0.01]
    """

    against: Role
    metric: str
    difference: float
    standard_error: float
    samples: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the interval of the difference over test samples; None where it has no width."""
        if self.standard_error == 0 or self.samples < 2:
            return None
        reach = (1 + confidence) / 2
        normal = self.samples - 1 > _NEARLY_NORMAL
        half = (NormalDist().inv_cdf(reach) if normal else quantile(reach, self.samples - 1)) * self.standard_error
        return self.difference - half, self.difference + half


def gap(student: SampleScores, other: SampleScores, against: Role, metric: str) -> Gap | None:
    """Compare a student with another network; None if no sample has a known label.

    Positions of one sample depend on each other: the error is that of a ratio over samples, not over positions.

    Example:
        >>> ones, hits = torch.ones(4), torch.tensor([1.0, 1.0, 0.0, 0.0])
        >>> found = gap(SampleScores(hits, ones), SampleScores(ones, ones), "teacher", "accuracy")
        >>> found.difference, round(found.standard_error, 4)  # 2 of 4: sqrt(1/3) / sqrt(4)
        (-0.5, 0.2887)
    """
    apart, count = (student.total - other.total).double(), student.count.double()
    apart, count = apart[count > 0], count[count > 0]
    samples, whole = len(count), float(count.sum())
    if not samples:
        return None
    mean = float(apart.sum()) / whole
    around = float((apart - mean * count).square().sum())
    error = math.sqrt(around * samples / (samples - 1)) / whole if samples > 1 else 0.0
    return Gap(against, metric, mean, error, samples)


def sample_scores(
    task: Task, logits: Tensor, target: Tensor | None, teacher: Tensor | None, mask: Tensor | None
) -> SampleScores | None:
    """Return the scores of a batch's samples; None where the task has none, or needs labels or a teacher that are not there.

    Args:
        task: What the logits are.
        logits: The network's.
        target: The labels.
        teacher: The teacher's logits, which embeddings are compared with.
        mask: True at the positions that count.
    """
    logits = at_least_float32(logits.detach())
    if task == "embedding":
        if teacher is None:
            return None
        rows, taught = counted_rows(logits, mask), counted_rows(at_least_float32(teacher), mask)
        return _by_sample(F.cosine_similarity(rows, taught, dim=-1), torch.ones(len(rows)), logits, mask)
    if task == "none" or target is None:
        return None
    found = labelled(logits, target.to(logits.device), task, mask, check=False)
    values, counts = _row_scores(task, found.logits, found.labels)
    return _by_sample(values, counts, logits, mask)


def _row_scores(task: Task, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if task == "multiclass":
        if labels.is_floating_point():  # class probabilities, after MixUp
            labels = labels.argmax(-1).masked_fill(unknown(labels), IGNORED_LABEL)
        known = labels != IGNORED_LABEL
        return ((rows.argmax(-1) == labels) & known).double(), known.double()
    known = labels != IGNORED_LABEL
    values = (rows - labels).square() if task == "regression" else ((rows > 0) == (labels >= 0.5)).double()
    return (values * known).sum(-1), known.sum(-1).double()


def _by_sample(values: Tensor, counts: Tensor, logits: Tensor, mask: Tensor | None) -> SampleScores:
    """Sum rows' values by the sample that each row is a position of."""
    mask = mask if mask is not None and logits.dim() > 2 else None
    spots = positions(logits) if mask is None else mask.shape
    places = torch.arange(len(logits)).reshape(-1, *[1] * (len(spots) - 1)).expand(spots)
    places = places.flatten() if mask is None else places[mask.bool().cpu()]
    empty = torch.zeros(len(logits), dtype=torch.float64)
    return SampleScores(*(empty.index_add(0, places, one.cpu().double()) for one in (values, counts)))
