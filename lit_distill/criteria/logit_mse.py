"""The squared difference of logits: Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", section 2.2."""

from __future__ import annotations

from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, check_same_classes, valid_rows
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag


def logit_mse(
    student: Tensor, teacher: Tensor, centre: bool = False, mask: Tensor | None = None, standardize: bool = False
) -> Tensor:
    """``mean (z_s - z_t)²`` over classes and rows.

    Centred, it is twice the limit of ``soft_target`` as T rises without end: ``T² KL -> 1 / (2 C) ||z_s - z_t||²`` of
    centred logits (Hinton et al. 2015, section 2.1). The paper has half the sum over classes.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        centre: Whether to take each row's mean over classes from it first, which no softmax can tell.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all count where None.
        standardize: Whether to standardize each row of both first, which centres them too.

    Raises:
        ValueError: ``centre`` or ``standardize`` is on and there is one class alone.
    """

    def loss(rows_s: Tensor, rows_t: Tensor) -> Tensor:
        rows_s, rows_t = at_least_float32(valid_rows(rows_s)), at_least_float32(valid_rows(rows_t))
        if standardize:
            rows_s, rows_t = standardized(rows_s), standardized(rows_t)
        difference = rows_s - rows_t
        if centre and difference.shape[-1] < 2:
            raise ValueError("centred logits of a single class are 0: nothing is compared; set centre to False.")
        if centre:
            difference = difference - difference.mean(-1, keepdim=True)
        return difference.square().mean(-1)

    return mean_over_rows(loss, student, teacher, mask)


class LogitMSE(Criterion):
    """The student's logits against the teacher's, by the mean squared difference over classes and rows.

    It has no temperature, and reads no labels. The scale is that of the logits: with large ones a weight below 1 is
    needed. Half of the centred value is what a ``SoftTarget`` is at a very high temperature. Tang et al. 2019
    ("Distilling Task-Specific Knowledge from BERT into Simple Neural Networks") use it alone, without labels.

    Args:
        centre: Whether to take each row's mean over classes from it first. A constant added to all logits changes no
            softmax; without centring the student has to learn it too. Not for sigmoids.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024); not for sigmoids.

    Raises:
        ValueError: In use: one of the two is on and there is one class alone.
    """

    about = About("logit MSE", 'Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", NeurIPS', weight=1.0)
    compares_logits = True

    def __init__(self, centre: bool = False, standardize: bool = False) -> None:
        super().__init__()
        self.centre = check_flag("centre", centre)
        self.standardize = check_flag("standardize", standardize)
        if self.centre or self.standardize:
            self.task: Task = "multiclass"

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        logits_s, logits_t = student.logits, teacher.logits
        if logits_s.dim() == 1:  # of a binary task
            logits_s, logits_t = logits_s.unsqueeze(1), logits_t.unsqueeze(1)
        # A mask beside [B] or [B, C] logits belongs to the inputs' tokens.
        mask = student.mask if logits_s.dim() > 2 else None
        return logit_mse(logits_s, logits_t, self.centre, mask, self.standardize)
