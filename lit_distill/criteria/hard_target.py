"""Hard targets: the task's own loss on the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch import IGNORED_LABEL
from lit_distill.criteria.base import TASKS, Criterion, Task, at_least_float32, check_choice, counted, valid_rows
from lit_distill.outputs import Outputs


def hard_target(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels: ``-mean log softmax(z)[y]``.

    Args:
        logits: ``[N, C]``.
        target: Class indices ``[N]`` (-100 is left out; the value is 0 where nothing is left), or class probabilities
            ``[N, C]`` (after MixUp).
        label_smoothing: ``eps`` in [0, 1): the label's mass becomes ``1 - eps + eps / C`` (Szegedy et al.
            2016, section 7).
    """
    if target.is_floating_point():
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    # Not PyTorch's mean: over a batch without any label that is NaN.
    total = F.cross_entropy(
        logits, target, label_smoothing=label_smoothing, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / (target != IGNORED_LABEL).sum().clamp(min=1)


def hard_target_binary(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy, mean over samples and classes.

    Args:
        logits: Any shape.
        target: 0, 1 or a probability, the same shape.
        label_smoothing: ``eps`` in [0, 1): targets become ``y (1 - eps) + eps / 2``.
    """
    soft = target.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, soft)


class HardTarget(Criterion):
    """The student's own loss on the labels.

    Args:
        label_smoothing: In [0, 1).
        task: ``multiclass`` (cross-entropy), ``binary`` or ``multilabel`` (binary cross-entropy).

    Raises:
        ValueError: An argument is out of range.
    """

    needs_target = True
    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0, task: Task = "multiclass") -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}.")
        check_choice("task", task, TASKS)
        self.label_smoothing = label_smoothing
        self.task: Task = task

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if target is None:
            raise ValueError("HardTarget needs labels, and the batch has none.")
        logits = at_least_float32(student.logits)
        if self.task != "multiclass":
            labels = counted(target.reshape(logits.shape), student.mask)
            return hard_target_binary(counted(logits, student.mask), labels, self.label_smoothing)
        if logits.dim() == 2:
            return hard_target(logits, target, self.label_smoothing)
        mask = student.mask
        rows = valid_rows(logits, mask)
        labels = target.flatten() if mask is None else target[mask.bool()]
        return hard_target(rows, labels, self.label_smoothing)
