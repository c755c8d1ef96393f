"""Decoupled knowledge distillation: Zhao, Cui, Song, Qiu and Liang 2022, "Decoupled Knowledge Distillation", CVPR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion
from lit_distill.criteria.ops.labelled import (
    check_three_classes,
    labelled_rows,
    mean_of_labelled,
    other_classes,
    target_and_rest,
)
from lit_distill.criteria.soft_target import kl_divergence
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperature


def dkd(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """``T² · mean_n (alpha TCKD + beta NCKD)``.

    ``TCKD = KL(b_t || b_s)`` with ``b = [p_y, 1 - p_y]``, whether it is the label's class;
    ``NCKD = KL(p̂_t || p̂_s)`` with ``p̂`` the softmax over the other classes, which of them it resembles. The KL of
    ``soft_target`` is ``TCKD + (1 - p_t,y) NCKD`` (section 3.1): the surer the teacher, the less of the second. Here both
    have weights of their own (section 3.3).

    Args:
        student: Logits ``[N, C]`` with 3 classes or more, in float32 or wider.
        teacher: Logits, the same shape.
        target: Class indices ``[N]`` (-100 is left out; 0 where nothing is left).
        alpha: The weight of TCKD.
        beta: The weight of NCKD.
        temperature: ``T`` above 0.

    Raises:
        ValueError: There are fewer than 3 classes.
    """
    check_three_classes(student, "DKD")
    student, teacher = student / temperature, teacher / temperature
    tckd = kl_divergence(target_and_rest(teacher, target), target_and_rest(student, target))
    others_s, others_t = (F.log_softmax(other_classes(z, target), dim=1) for z in (student, teacher))
    nckd = kl_divergence(others_t, others_s)
    return temperature**2 * mean_of_labelled(alpha * tckd + beta * nckd, target)


class DKD(Criterion):
    """Soft targets in two parts: the label's class against the rest, and the rest among each other.

    Beside ``HardTarget`` at weight 1. The weight is 1 as well, after a linear warm-up from 0 over the first 20 of 240
    epochs (1 of 100 on ImageNet), which is a schedule::

        schedules:
          dkd.weight: {class_path: lit_distill.schedules.Linear, init_args: {start: 0, end: 1, until: 20}}

    The authors' code: alpha 1, T 4 and beta 8 on CIFAR-100 (6 for WRN and VGG pairs, 2 for ResNet-56 or -110 to 20); T 1
    and beta 0.5 (ResNet-34 to 18) or 2 (ResNet-50 to MobileNet) on ImageNet. ``beta`` has to fall as the gap between
    the two networks falls. That code takes the logarithm of a softmax, and is NaN where two logits are some 100 apart;
    this is its value without that. Class probabilities as labels (after MixUp) count as their likeliest class.

    Nothing is trained beside the student, and the cost is that of a few softmaxes.

    Args:
        alpha: The weight of TCKD, at least 0.
        beta: The weight of NCKD, at least 0.
        temperature: Above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, with T 2).

    Raises:
        ValueError: An argument is out of range; in use: fewer than 3 classes, as NCKD is 0 with 2.
    """

    about = About("DKD", 'Zhao, Cui, Song, Qiu and Liang 2022, "Decoupled Knowledge Distillation", CVPR', weight=1.0)
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardize: bool = False
    ) -> None:
        super().__init__()
        self.alpha, self.beta = check_shares({"alpha": alpha, "beta": beta})
        self.temperature = check_temperature(temperature)
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = labelled_rows(student, teacher, target, self.standardize)
        return dkd(*rows, self.alpha, self.beta, self.temperature)
