"""Tf-KD: teacher-free distillation, with a virtual teacher made from the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import labelled
from lit_distill.batch.labels import Task, need_classes, unknown
from lit_distill.criteria.base import Citation, Criterion, at_least_float32
from lit_distill.criteria.ops.labelled import need_labels
from lit_distill.criteria.soft_target import soft_target
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number, check_temperature


def virtual_teacher(target: Tensor, classes: int, confidence: float = 0.99) -> Tensor:
    r"""Return the logits ``[N, K]`` of a teacher that is always right ([Yuan et al. 2020](https://arxiv.org/abs/1909.11723)).

    $$ \log p_c, \quad p_y = a, \quad p_{c \neq y} = (1 - a) / (K - 1) $$

    Args:
        target: Class indices ``[N]``; or class probabilities ``[N, K]`` (after MixUp), over which ``p`` is averaged.
        classes: ``K``, 2 or more.
        confidence: ``a`` in (1 / K, 1); the paper has 0.9 or more, its code 0.99.

    Raises:
        ValueError: ``a`` gives the label no more than an equal share.

    Examples:
        >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9).exp()
        tensor([[0.9000, 0.0500, 0.0500]])
    """
    if not 1 / classes < confidence < 1:
        raise ValueError(f"confidence must be between 1/{classes} (of {classes} classes) and 1, not {confidence}.")
    rest = (1 - confidence) / (classes - 1)
    if target.is_floating_point():
        return (rest + (confidence - rest) * at_least_float32(target)).log()
    logits = torch.full((len(target), classes), math.log(rest), device=target.device)
    return logits.scatter_(1, target.unsqueeze(1), math.log(confidence))


def teacher_free(logits: Tensor, target: Tensor, confidence: float = 0.99, temperature: float = 20.0) -> Tensor:
    r"""Return the teacher-free loss ([Yuan et al. 2020](https://arxiv.org/abs/1909.11723), equation 9).

    $$ T^2 \tfrac1N \sum_n \mathrm{KL}(p^d_T \| p_T) $$

    The virtual teacher $p^d$ and the student are both softened by ``T``. T = 1 gives cross-entropy's gradient with a label
    smoothing of ``(1 - a) K / (K - 1)``.

    Args:
        logits: ``[N, K]``.
        target: Class indices ``[N]`` (rows of -100 are left out; 0 if none is left), or class probabilities ``[N, K]``.
        confidence: ``a``, the virtual teacher's probability of the label, in (1 / K, 1).
        temperature: The softmax temperature, above 0.

    Raises:
        ValueError: There is only one class, or ``a`` gives the label no more than an equal share.

    Examples:
        >>> teacher_free(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([0]), confidence=0.9)
        tensor(1.2896)
    """
    need_classes(logits)
    known = ~unknown(target) if target.is_floating_point() else target != IGNORED_LABEL
    logits, target = logits[known], target[known]
    if not len(logits):
        return at_least_float32(logits).sum()
    teacher = virtual_teacher(target, logits.shape[-1], confidence)
    return soft_target(logits, teacher.to(at_least_float32(logits).dtype), temperature)


class TeacherFree(Criterion):
    r"""A softened virtual teacher, made only from the labels (Tf-KD_reg).

    $$ T^2\,\mathrm{KL}(p^d_T \| p_T) $$ ([Yuan et al. 2020](https://arxiv.org/abs/1909.11723)), see ``teacher_free``.

    Use it next to ``HardTarget``; the module's teacher is None. The authors' code is not the paper's equation 9: it divides
    the teacher's *probabilities* by T before a second softmax, which leaves them all but uniform, does not soften the
    student, averages over classes too, and has another factor than T². So its weights do not carry over.

    Args:
        confidence: ``a``: the label's probability before softening, in (1 / K, 1); 0.9 or more in the paper, 0.99 in its code.
        temperature: The softmax temperature, above 0; the paper's is 20 or more.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> TeacherFree()(Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs.nothing(), torch.tensor([0]))
        tensor(3.6031)
    """

    citation = Citation(
        "Tf-KD_reg",
        'Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR',
        weight=0.1,
        url="https://arxiv.org/abs/1909.11723",
    )
    needs_target = True
    needs_teacher = False
    task: Task = "multiclass"

    def __init__(self, confidence: float = 0.99, temperature: float = 20.0) -> None:
        super().__init__()
        self.confidence = check_number("confidence", confidence, above=0, below=1)
        self.temperature: float = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        target = need_labels(target, "TeacherFree")
        need_classes(student.logits)
        rows = labelled(student.logits, target, "multiclass", student.mask)
        return teacher_free(rows.logits, rows.labels, self.confidence, self.temperature)
