"""Refined logit distillation: Sun et al. 2024, "Knowledge Distillation with Refined Logits"."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion
from lit_distill.criteria.ops.labelled import (
    check_three_classes,
    label_index,
    labelled_rows,
    mean_of_labelled,
    target_and_rest,
)
from lit_distill.criteria.soft_target import kl_divergence
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperature


def rld(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> Tensor:
    """``mean_n (alpha SCD + beta MCD)``: what a teacher says that may be wrong, refined by the label.

    ``SCD = T_c² KL([max p_t, 1 - max p_t] || [p_s,y, 1 - p_s,y])``, at its own temperature ``T_c``: how sure to be, of the
    label, whatever the teacher was sure of. ``MCD = T² KL(p̂_t || p̂_s)``, with ``p̂`` the softmax of ``z / T`` over
    the classes that the teacher puts below the label's: those it takes for likelier (or as likely) are left out, as is
    the label. It is 0 where fewer than 2 classes are left. Where the teacher is right and the temperatures agree, it
    is ``dkd``.

    Args:
        student: Logits ``[N, C]`` with 3 classes or more, in float32 or wider.
        teacher: Logits, the same shape.
        target: Class indices ``[N]`` (-100 is left out; 0 where nothing is left).
        alpha: The weight of SCD.
        beta: The weight of MCD.
        temperature: ``T`` above 0, of MCD.
        confidence_temperature: ``T_c`` above 0, of SCD.

    Raises:
        ValueError: There are fewer than 3 classes.
    """
    check_three_classes(student, "RLD")
    sure = target_and_rest(teacher / confidence_temperature, teacher.argmax(1))
    scd = kl_divergence(sure, target_and_rest(student / confidence_temperature, target))
    masked = teacher >= teacher.gather(1, label_index(target))
    # The lowest number and not -inf, for which a row with nothing left would be NaN.
    left_s, left_t = (
        F.log_softmax((z / temperature).masked_fill(masked, torch.finfo(z.dtype).min), dim=1)
        for z in (student, teacher)
    )
    mcd = (left_t.exp() * (left_t - left_s)).masked_fill(masked, 0).sum(1)
    losses = alpha * confidence_temperature**2 * scd + beta * temperature**2 * mcd
    return mean_of_labelled(losses, target)


class RLD(Criterion):
    """Decoupled distillation that a wrong teacher does not mislead: the label says what of the teacher to believe.

    Beside ``HardTarget`` at weight 1, itself at weight 1 after the linear warm-up of ``DKD`` (20 of 240 epochs; 1 of 100
    on ImageNet), which is a schedule of its weight. The authors' code: alpha 1, beta 8, T 4 and T_c 1 on CIFAR-100; beta
    0.5 and T 1 on ImageNet; with ``standardize`` both temperatures are 2. It has most to give where the teacher is often
    wrong on the training views. At the teacher's own logits it is 0 only where the teacher is right. Class probabilities
    as labels (after MixUp) count as their likeliest class.

    Nothing is trained beside the student, and the cost is that of a few softmaxes.

    Args:
        alpha: The weight of the confidence in the label, at least 0.
        beta: The weight of the classes below the label's, at least 0.
        temperature: Of the second, above 0.
        confidence_temperature: Of the first, above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, CVPR).

    Raises:
        ValueError: An argument is out of range; in use: fewer than 3 classes.
    """

    about = About(
        "RLD",
        'Sun, Chen, Lyu, Chen, Chen and Wang 2024, "Knowledge Distillation with Refined Logits", ICCV 2025',
        weight=1.0,
    )
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        confidence_temperature: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.beta = check_shares({"alpha": alpha, "beta": beta})
        self.temperature = check_temperature(temperature)
        self.confidence_temperature = check_temperature(confidence_temperature, "confidence_temperature")
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = labelled_rows(student, teacher, target, self.standardize)
        return rld(*rows, self.alpha, self.beta, self.temperature, self.confidence_temperature)
