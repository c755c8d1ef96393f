"""The metrics of validation and test: each network's own, and the agreement of the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import counted_rows, labelled
from lit_distill.batch.labels import CLASS_TASKS, Task, WrongLabelError, class_dim, need_classes, read_labels, unknown
from lit_distill.criteria.base import at_least_float32
from lit_distill.criteria.hard_target import hard_target, hard_target_binary
from lit_distill.criteria.soft_target import soft_target, soft_target_bernoulli
from lit_distill.engine.calibration import BinnedCalibrationError

_BINS = 15
METRIC_NAMES: dict[Task, tuple[str, ...]] = {
    **dict.fromkeys(CLASS_TASKS, ("accuracy", "calibration_error", "cross_entropy", "agreement", "kl_divergence")),
    "regression": ("mean_squared_error", "mean_absolute_error", "mean_squared_difference"),
    "embedding": ("cosine_similarity",),
    "none": (),
}


class Evaluation:
    """The metrics of one validation or test epoch, synchronised over processes by torchmetrics.

    For classes: ``accuracy`` (top-1; per label for multilabel), ``calibration_error`` (expected, 15 bins) and
    ``cross_entropy`` of each network; ``agreement`` (the share of equal top-1 predictions) and ``kl_divergence`` (teacher to
    student, temperature 1) of the two. For regression: ``mean_squared_error`` and ``mean_absolute_error`` of each network,
    ``mean_squared_difference`` of the two. For embeddings: the mean ``cosine_similarity`` of the two. For the task ``none``:
    nothing.

    If a batch does not fit the task (labels that are not classes, a softmax over one class), the epoch has no metrics, on any
    process. Memory does not grow with the data.

    Attributes:
        misfit: Why a batch does not fit the task; None if all fit.
        wrong_label: The reason is a label that the task does not have, in labels of the right form.
    """

    def __init__(self, task: Task, classes: int, device: torch.device) -> None:
        self.task = task
        self.classes = classes
        self.device = device
        self.misfit: str | None = None
        self.wrong_label = False
        self._metrics: dict[str, Metric] = {}
        self._misfits = SumMetric().to(device)
        self._misfits.update(0)

    def update(self, student: Tensor, teacher: Tensor | None, target: Tensor | None, mask: Tensor | None) -> None:
        """Add a batch: both networks' logits in the layout of ``Outputs``; the mask is True at the positions that count."""
        if self.task == "none":
            return
        networks = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
        if target is not None and self.task != "embedding":
            for who, logits in networks.items():
                self.update_member(who, logits, target, mask)
        elif self.task == "multiclass":
            self._fits(student, None)
        if teacher is not None and self.misfit is None:
            self._compare(self._rows(student, mask), self._rows(teacher, mask))

    def update_member(self, name: str, logits: Tensor, target: Tensor | None, mask: Tensor | None) -> None:
        """Add a batch of one network, if it has labels, for metrics named ``accuracy/<name>`` and so on."""
        if target is None or self.task in ("embedding", "none") or not self._fits(logits, target):
            return
        logits, target = at_least_float32(logits.detach().to(self.device)), target.to(self.device)
        found = labelled(logits, target, self.task, mask, check=False)
        if self.task == "regression":
            self._add_numbers(name, found.logits, found.labels)
        else:
            self._add_network(name, found.logits, found.labels)

    def compute(self) -> dict[str, Tensor]:
        """Return every metric by name, ``accuracy/student`` and so on; none if a batch did not fit the task."""
        if float(self._misfits.compute()):
            return {}
        return {name: metric.compute() for name, metric in self._metrics.items()}

    def calibration(self, name: str) -> BinnedCalibrationError | None:
        """Return the bins behind a network's calibration error; None if it has none."""
        found = self._metrics.get(f"calibration_error/{name}")
        return found if isinstance(found, BinnedCalibrationError) else None

    def _fits(self, logits: Tensor, target: Tensor | None) -> bool:
        """Return True if a batch fits the task; else keep the reason."""
        if self.misfit is not None:
            return False
        try:
            if self.task == "multiclass":
                need_classes(logits)
            if target is not None:
                read_labels(target.to(logits.device), logits, self.task, check=self.task != "regression")
        except ValueError as error:
            self.misfit, self.wrong_label = str(error), isinstance(error, WrongLabelError)
            self._misfits.update(1)
        return self.misfit is None

    def _rows(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        found = counted_rows(at_least_float32(logits.detach().to(self.device)), mask)
        return found.flatten() if self.task == "binary" else found

    def _compare(self, rows_s: Tensor, rows_t: Tensor) -> None:
        if self.task == "regression":
            self._mean("mean_squared_difference", (rows_s - rows_t).square().mean(), rows_s.numel())
        elif self.task == "embedding":
            self._mean("cosine_similarity", F.cosine_similarity(rows_s, rows_t, dim=-1).mean(), len(rows_s))
        else:
            agree = self._decide(rows_s) == self._decide(rows_t)
            self._mean("agreement", agree.float().mean(), len(rows_s))
            divergence = soft_target if self.task == "multiclass" else soft_target_bernoulli
            self._mean("kl_divergence", divergence(rows_s, rows_t, temperature=1.0), len(rows_s))

    def _decide(self, rows: Tensor) -> Tensor:
        return rows.argmax(-1) if self.task == "multiclass" else rows > 0

    def _add_network(self, who: str, rows: Tensor, labels: Tensor) -> None:
        if self.task == "multiclass" and labels.is_floating_point():  # class probabilities, after MixUp
            labels = labels.argmax(-1).masked_fill(unknown(labels), IGNORED_LABEL)
        keep = labels != IGNORED_LABEL
        rows, labels = rows[keep], labels[keep]
        if self.task == "multiclass":
            probabilities, loss = rows.softmax(-1), hard_target(rows, labels)
            confidence, decision = probabilities.max(-1)
            hit = decision == labels
        else:
            probabilities, loss = rows.sigmoid(), hard_target_binary(rows, labels)
            labels = (labels >= 0.5).int()
            confidence, hit = probabilities, labels
        accuracy, calibration = self._metric(f"accuracy/{who}"), self._metric(f"calibration_error/{who}")
        if len(rows):  # torchmetrics fails on an empty batch, such as one whose labels are all ignored
            accuracy.update(probabilities, labels)
            calibration.update(confidence, hit)
        self._mean(f"cross_entropy/{who}", loss, len(rows))

    def _add_numbers(self, who: str, rows: Tensor, labels: Tensor) -> None:
        keep = labels != IGNORED_LABEL
        gap = rows[keep] - labels[keep]
        self._mean(f"mean_squared_error/{who}", gap.square().mean(), len(gap))
        self._mean(f"mean_absolute_error/{who}", gap.abs().mean(), len(gap))

    def _mean(self, name: str, value: Tensor, weight: int) -> None:
        metric = self._metrics.setdefault(name, MeanMetric().to(self.device))
        if weight:
            metric.update(value, weight)

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            self._metrics[name] = self._make(name.partition("/")[0]).to(self.device)
        return self._metrics[name]

    def _make(self, kind: str) -> Metric:
        if kind == "calibration_error":
            return BinnedCalibrationError(_BINS, torch.float32 if self.device.type == "mps" else torch.float64)
        if self.task == "multiclass":
            return MulticlassAccuracy(num_classes=self.classes, average="micro")
        return BinaryAccuracy()


def count_classes(logits: Tensor) -> int:
    """Return the number of classes of logits ``[B]``, ``[B, C]``, ``[B, T, C]``, ``[B, C, H, W]`` or ``[B, C, D, H, W]``."""
    return logits.shape[class_dim(logits)] if logits.dim() > 1 else 1
