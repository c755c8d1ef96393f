"""Hard-label distillation, as in DeiT."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.rows import wide_rows
from lit_distill.outputs import Outputs


def hard_distillation(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Return the cross-entropy with the teacher's decision ([Touvron et al. 2021](https://arxiv.org/abs/2012.12877)).

    $$ -\tfrac1N \sum_n \log \mathrm{softmax}(z^s_n)_{y_n}, \quad y_n = \mathrm{argmax}_c\; z^t_{nc} $$ (equation 3)

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all if None.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> hard_distillation(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
        tensor(1.4076)
    """
    need_classes(student)

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        rows_s, rows_t = wide_rows(some_s, some_t)
        return F.cross_entropy(rows_s, rows_t.argmax(-1), reduction="none")

    return mean_over_rows(loss, student, teacher.detach(), mask)


class HardDistillation(Criterion):
    r"""Cross-entropy with the teacher's decision instead of the label.

    $$ -\log p^s_y, \quad y = \mathrm{argmax}_c\; z^t_c $$ ([Touvron et al. 2021](https://arxiv.org/abs/2012.12877)), see
    ``hard_distillation``.

    DeiT's loss is half the labels' and half this one, with no temperature and no weight to tune; the labels are smoothed by
    0.1, the teacher's decisions are not. At the teacher's own logits it is not 0. DeiT gives the student a distillation
    token with a head of its own, which learns only from the teacher, while the head of the class token learns only from the
    labels. Each head is a layer of the student, which ``OnHead`` reads::

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

    so that timm's ``set_distilled_training`` is not needed: the model's own output stays the mean of both heads.

    Examples:
        >>> HardDistillation()(Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]])))
        tensor(1.4076)
    """

    citation = Citation(
        "DeiT",
        'Touvron, Cord, Douze, Massa, Sablayrolles and Jégou 2021, "Training data-efficient image transformers & '
        'distillation through attention", ICML',
        weight=0.5,
        url="https://arxiv.org/abs/2012.12877",
    )
    compares_logits = True
    minimum_at_teacher = False  # it is a cross-entropy with the teacher's class
    task: Task = "multiclass"

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return hard_distillation(student.logits, teacher.logits, student.logit_mask)
