"""Soft targets at several temperatures: Jin, Wang and Lin 2023, "Multi-Level Logit Distillation"."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, check_same_classes
from lit_distill.criteria.soft_target import soft_target
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_temperatures


def multi_temperature(
    student: Tensor,
    teacher: Tensor,
    temperatures: tuple[float, ...],
    mask: Tensor | None = None,
    standardize: bool = False,
) -> Tensor:
    """``mean_T T² · mean_n KL(p_t || p_s)``: soft targets, the mean over temperatures.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: The same shape.
        temperatures: Each above 0.
        mask: As in ``soft_target``.
        standardize: As in ``soft_target``.
    """
    values = [soft_target(student, teacher, t, mask=mask, standardize=standardize) for t in temperatures]
    return torch.stack(values).mean()


class MultiTemperature(Criterion):
    """Soft targets at several temperatures at once, so that none has to be found.

    It is the instance level of multi-level logit distillation; ``LogitRelation`` is its other two levels. The whole method
    also shows both networks a weakly and a strongly augmented view and trains longer, so that its published results
    (CIFAR-100, ResNet-56 to ResNet-20: 72.19) are not those of these criteria. The authors' code sums over temperatures:
    its weight times 5 is that of this mean.

    Args:
        temperatures: Each above 0; 2, 3, 4, 5 and 6 in the authors' code.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: There is none, or one is out of range.
    """

    about = About("MLKD, instances", 'Jin et al. 2023, "Multi-Level Logit Distillation", CVPR', weight=5.0)
    compares_logits = True
    task: Task = "multiclass"

    def __init__(self, temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0), standardize: bool = False) -> None:
        super().__init__()
        self.standardize = check_flag("standardize", standardize)
        self.temperatures = check_temperatures(temperatures)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        mask = student.mask if student.logits.dim() > 2 else None
        return multi_temperature(student.logits, teacher.logits, self.temperatures, mask, self.standardize)
