"""A teacher made up from the labels.

Yuan, Tay, Li, Wang and Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", equation 9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import labelled
from lit_distill.batch.labels import Task, need_classes, unknown
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32
from lit_distill.criteria.soft_target import soft_target
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number, check_temperature


def virtual_teacher(target: Tensor, classes: int, confidence: float = 0.99) -> Tensor:
    """The logits of a teacher that is always right: ``log p``, with ``p = a`` for the label and ``(1 - a) / (K - 1)`` else.

    Args:
        target: Class indices ``[N]``; or class probabilities ``[N, K]`` (after MixUp), of which the mean is taken.
        classes: ``K``, 2 or more.
        confidence: ``a`` in (1 / K, 1); the paper has 0.9 or more, its code 0.99.

    Returns:
        ``[N, K]``, in float32 or wider.

    Raises:
        ValueError: ``a`` gives the label no more than its share.
    """
    if not 1 / classes < confidence < 1:
        raise ValueError(f"confidence must be between 1/{classes} (of {classes} classes) and 1, not {confidence}.")
    rest = (1 - confidence) / (classes - 1)
    if target.is_floating_point():
        return (rest + (confidence - rest) * at_least_float32(target)).log()
    logits = torch.full((len(target), classes), math.log(rest), device=target.device)
    return logits.scatter_(1, target.unsqueeze(1), math.log(confidence))


def teacher_free(logits: Tensor, target: Tensor, confidence: float = 0.99, temperature: float = 20.0) -> Tensor:
    """``T² · mean KL(p^d_T || p_T)``, with ``p^d`` the virtual teacher, both softened by ``T`` (equation 9).

    At T = 1 its gradient is that of cross-entropy with a label smoothing of ``(1 - a) K / (K - 1)``.

    Args:
        logits: ``[N, K]``.
        target: Class indices ``[N]`` (-100 is left out; 0 where nothing is left), or class probabilities ``[N, K]``.
        confidence: As in ``virtual_teacher``.
        temperature: Above 0.
    """
    need_classes(logits)
    known = ~unknown(target) if target.is_floating_point() else target != IGNORED_LABEL
    logits, target = logits[known], target[known]
    if not len(logits):
        return at_least_float32(logits).sum()
    teacher = virtual_teacher(target, logits.shape[-1], confidence)
    return soft_target(logits, teacher.to(at_least_float32(logits).dtype), temperature)


class TeacherFree(Criterion):
    """A virtual teacher, made of the labels alone, softened (Tf-KD_reg).

    Beside ``HardTarget``; the module's teacher is None. The authors' code is not the paper's equation 9: it divides the
    teacher's *probabilities* by T before a second softmax, which leaves them all but uniform, does not soften the student,
    averages over classes too, and multiplies by a number from each experiment's settings in place of T². So its weights
    (0.1 beside 0.9 for the labels, say) do not carry over.

    Args:
        confidence: ``a``: the label's probability before softening, in (0, 1) and above 1 / K. The paper asks for 0.9 or
            more; its code has 0.99.
        temperature: Above 0; the paper's is 20 or more.

    Raises:
        ValueError: An argument is out of range.
    """

    about = About(
        "Tf-KD_reg",
        'Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR',
        weight=0.1,
    )
    needs_target = True
    needs_teacher = False

    def __init__(self, confidence: float = 0.99, temperature: float = 20.0) -> None:
        super().__init__()
        self.confidence = check_number("confidence", confidence, above=0, below=1)
        self.temperature = check_temperature(temperature)
        self.task: Task = "multiclass"

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if target is None:
            raise ValueError("TeacherFree needs labels, and the batch has none.")
        need_classes(student.logits)
        rows = labelled(student.logits, target, self.task, student.mask)
        return teacher_free(rows.logits, rows.labels, self.confidence, self.temperature)
