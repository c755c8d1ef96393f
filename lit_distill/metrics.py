"""How good the student and the teacher are, how well they agree, and how honest their confidence is."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryCalibrationError,
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MultilabelAccuracy,
)

from lit_distill.batch import IGNORED_LABEL
from lit_distill.criteria.base import Task, counted, valid_rows
from lit_distill.criteria.hard_target import hard_target, hard_target_binary
from lit_distill.criteria.soft_target import soft_target, soft_target_bernoulli

_BINS = 15


class Evaluation:
    """The figures of one validation or test epoch, synchronised over processes by torchmetrics.

    ``accuracy`` (top-1; per label for multilabel), ``calibration_error`` (expected, 15 bins) and
    ``cross_entropy`` of each network; ``agreement`` (the share of equal top-1 predictions) and
    ``kl_divergence`` (teacher to student, temperature 1) of the two.

    Args:
        task: What the logits mean.
        classes: Number of classes.
        device: Where the metrics are kept.
    """

    def __init__(self, task: Task, classes: int, device: torch.device) -> None:
        self.task = task
        self.classes = classes
        self.device = device
        self._metrics: dict[str, Metric] = {}

    def update(self, student: Tensor, teacher: Tensor | None, target: Tensor | None, mask: Tensor | None) -> None:
        """Add a batch.

        Args:
            student: Logits, as in ``Outputs``.
            teacher: Logits of the same shape, or None.
            target: Labels, or None.
            mask: True at the positions that count, or None.
        """
        rows_s, labels = self._rows(student, mask), self._labels(student, target, mask)
        rows_t = self._rows(teacher, mask) if teacher is not None else None
        if labels is not None:
            self._add_network("student", rows_s, labels)
            if rows_t is not None:
                self._add_network("teacher", rows_t, labels)
        if rows_t is not None:
            agree = self._decide(rows_s) == self._decide(rows_t)
            self._mean("agreement", agree.float().mean(), len(rows_s))
            divergence = soft_target if self.task == "multiclass" else soft_target_bernoulli
            self._mean("kl_divergence", divergence(rows_s, rows_t, temperature=1.0), len(rows_s))

    def update_member(self, name: str, logits: Tensor, target: Tensor | None, mask: Tensor | None) -> None:
        """Add a batch of one of the networks that the student is made of; nothing where there are no labels.

        Args:
            name: What its figures are called, ``accuracy/<name>`` and so on.
            logits: As the student's.
            target: As in ``update``.
            mask: As in ``update``.
        """
        labels = self._labels(logits, target, mask)
        if labels is not None:
            self._add_network(name, self._rows(logits, mask), labels)

    def compute(self) -> dict[str, Tensor]:
        """Every figure by name, ``accuracy/student`` and so on."""
        return {name: metric.compute() for name, metric in self._metrics.items()}

    def _rows(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        rows = counted(logits.detach().to(self.device), mask)
        return rows.flatten() if self.task == "binary" else valid_rows(rows)

    def _labels(self, logits: Tensor, target: Tensor | None, mask: Tensor | None) -> Tensor | None:
        if target is None:
            return None
        target = target.to(self.device)
        if self.task != "multiclass":
            return self._rows(target.reshape(logits.shape), mask)
        if target.is_floating_point():  # class probabilities, after MixUp
            target = target.argmax(-1)
        return target[mask.bool()] if mask is not None and logits.dim() > 2 else target.flatten()

    def _decide(self, rows: Tensor) -> Tensor:
        return rows.argmax(-1) if self.task == "multiclass" else rows > 0

    def _add_network(self, who: str, rows: Tensor, labels: Tensor) -> None:
        if self.task == "multiclass":
            keep = labels != IGNORED_LABEL
            rows, labels = rows[keep], labels[keep]
            probabilities, loss = rows.softmax(-1), hard_target(rows, labels)
        else:
            probabilities, loss = rows.sigmoid(), hard_target_binary(rows, labels)
            labels = labels.int()
        accuracy, calibration = self._metric(f"accuracy/{who}"), self._metric(f"calibration_error/{who}")
        if len(rows):  # torchmetrics takes no empty batch, as one whose labels are all left out
            accuracy.update(probabilities, labels)
            flat = (probabilities, labels) if self.task != "multilabel" else (probabilities.flatten(), labels.flatten())
            calibration.update(*flat)
        self._mean(f"cross_entropy/{who}", loss, len(rows))

    def _mean(self, name: str, value: Tensor, weight: int) -> None:
        metric = self._metrics.setdefault(name, MeanMetric().to(self.device))
        if weight:
            metric.update(value, weight)

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            self._metrics[name] = self._make(name.partition("/")[0]).to(self.device)
        return self._metrics[name]

    def _make(self, kind: str) -> Metric:
        if kind == "accuracy":
            if self.task == "multiclass":
                return MulticlassAccuracy(num_classes=self.classes, average="micro")
            return BinaryAccuracy() if self.task == "binary" else MultilabelAccuracy(self.classes, average="micro")
        if self.task == "multiclass":
            return MulticlassCalibrationError(num_classes=self.classes, n_bins=_BINS)
        return BinaryCalibrationError(n_bins=_BINS)


def count_classes(logits: Tensor) -> int:
    """Number of classes of logits ``[B]``, ``[B, C]``, ``[B, T, C]`` or ``[B, C, H, W]``."""
    if logits.dim() == 1:
        return 1
    return logits.shape[1] if logits.dim() == 4 else logits.shape[-1]
