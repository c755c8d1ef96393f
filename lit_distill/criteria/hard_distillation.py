"""Hard-label distillation: Touvron et al. 2021, "Training data-efficient image transformers" (DeiT), section 4."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, check_same_classes, valid_rows
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.outputs import Outputs


def hard_distillation(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """``mean_n CE(z_s, argmax_c z_t)``: the teacher's decision as the label (equation 3, its second term).

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all count where None.
    """
    need_classes(student)

    def loss(rows_s: Tensor, rows_t: Tensor) -> Tensor:
        return F.cross_entropy(at_least_float32(valid_rows(rows_s)), valid_rows(rows_t).argmax(-1), reduction="none")

    return mean_over_rows(loss, student, teacher.detach(), mask)


class HardDistillation(Criterion):
    """Cross-entropy with the teacher's decision in place of the label.

    DeiT's loss is half the labels' and half this one, with no temperature and no weight to tune; the labels are smoothed
    by 0.1, the teacher's decisions are not. It is a cross-entropy: at the teacher's own logits it is not 0.

    DeiT gives the student a distillation token with a head of its own, which learns from the teacher alone, while the
    class token's head learns from the labels alone. Each head is a layer of the student, to be read by ``OnHead``::

        criteria:
          hard:
            class_path: lit_distill.criteria.OnHead
            init_args:
              criterion: {class_path: lit_distill.HardTarget, init_args: {label_smoothing: 0.1}}
              student_head: head
          teacher:
            class_path: lit_distill.criteria.OnHead
            init_args: {criterion: {class_path: lit_distill.criteria.HardDistillation}, student_head: head_dist}
        weights: {hard: 0.5, teacher: 0.5}

    so that timm's ``set_distilled_training`` is not needed: the model's own output stays the mean of both heads, which
    is what it predicts with. Nothing is trained beside the student, and the cost is that of a cross-entropy.
    """

    about = About(
        "DeiT",
        'Touvron, Cord, Douze, Massa, Sablayrolles and Jégou 2021, "Training data-efficient image transformers & '
        'distillation through attention", ICML',
        weight=0.5,
    )
    compares_logits = True
    minimum_at_teacher = False  # it is a cross-entropy with the teacher's class
    task: Task = "multiclass"

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        # A mask beside [B, C] logits belongs to the inputs' tokens.
        mask = student.mask if student.logits.dim() > 2 else None
        return hard_distillation(student.logits, teacher.logits, mask)
