"""Transformed teacher matching, plain and weighted: Zheng and Yang 2024, ICLR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, check_same_classes, valid_rows
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.criteria.soft_target import kl_divergence
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_number


def ttm(
    student: Tensor,
    teacher: Tensor,
    gamma: float = 0.1,
    weighted: bool = False,
    mask: Tensor | None = None,
    standardize: bool = False,
) -> Tensor:
    """``mean_n KL(q || p_s)`` with ``q = p_t^gamma / U`` and ``U = sum_c p_t,c^gamma``; weighted, ``mean_n U KL(q || p_s)``.

    The power transform of the teacher is a temperature of ``1 / gamma`` on the teacher alone: the student's is 1. So
    there is no T² to make up for. ``U`` runs from 1 (a teacher that is certain) to ``C^(1 - gamma)`` (one that knows
    nothing): the weighted form asks more of the samples on which the teacher doubts.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        gamma: The exponent, in (0, 1].
        weighted: Whether to multiply each row by its ``U``.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all count where None.
        standardize: Whether to standardize each row of both first.
    """
    need_classes(student)

    def loss(rows_s: Tensor, rows_t: Tensor) -> Tensor:
        rows_s, rows_t = at_least_float32(valid_rows(rows_s)), at_least_float32(valid_rows(rows_t))
        if standardize:
            rows_s, rows_t = standardized(rows_s), standardized(rows_t)
        powers = gamma * F.log_softmax(rows_t, dim=-1)
        divergence = kl_divergence(F.log_softmax(powers, dim=-1), F.log_softmax(rows_s, dim=-1))
        return powers.logsumexp(-1).exp() * divergence if weighted else divergence

    return mean_over_rows(loss, student, teacher, mask)


class TTM(Criterion):
    """A teacher softened by a power, and a student that is not softened at all.

    Beside ``HardTarget`` at weight 1. For VGG-13 to VGG-8 on CIFAR-100 the authors have gamma 0.1 and weight 45; without a
    temperature on the student, whose gradient is ``p_s - q``, the weight stands where T² would be. It reads no labels,
    trains nothing beside the student, and costs a few softmaxes.

    Args:
        gamma: The exponent of the teacher's probabilities, in (0, 1]: a temperature of ``1 / gamma``.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, who did not try it
            with this method).

    Raises:
        ValueError: ``gamma`` is out of range.
    """

    about = About(
        "TTM",
        'Zheng and Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR',
        weight=45.0,
    )
    compares_logits = True
    minimum_at_teacher = False  # the teacher's distribution is softened, the student's is not
    task: Task = "multiclass"
    weighted: bool = False

    def __init__(self, gamma: float = 0.1, standardize: bool = False) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, above=0, most=1)
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        # A mask beside [B, C] logits belongs to the inputs' tokens.
        mask = student.mask if student.logits.dim() > 2 else None
        return ttm(student.logits, teacher.logits, self.gamma, self.weighted, mask, self.standardize)


class WTTM(TTM):
    """TTM, with the samples on which the teacher doubts counting for more.

    Beside ``HardTarget`` at weight 1. For VGG-13 to VGG-8 on CIFAR-100 the authors have gamma 0.2 and weight 4 (beside
    CRD); the sample's weight ``U`` can be near 40 with 100 classes, so that one weight does not do for another number of
    classes.

    Args:
        gamma: The exponent of the teacher's probabilities, in (0, 1]: a temperature of ``1 / gamma``.
        standardize: As in ``TTM``.

    Raises:
        ValueError: ``gamma`` is out of range.
    """

    about = About(
        "WTTM",
        'Zheng and Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR',
        weight=4.0,
    )
    weighted = True

    def __init__(self, gamma: float = 0.2, standardize: bool = False) -> None:
        super().__init__(gamma, standardize)
