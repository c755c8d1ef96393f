"""Mean squared difference of logits."""

from __future__ import annotations

from torch import Tensor

from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.rows import check_same_classes, wide_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag


def logit_mse(
    student: Tensor, teacher: Tensor, centre: bool = False, mask: Tensor | None = None, standardize: bool = False
) -> Tensor:
    r"""Return the mean squared difference of logits ([Ba and Caruana 2014](https://arxiv.org/abs/1312.6184), section 2.2).

    $$ \tfrac{1}{N C} \sum_n \|z^s_n - z^t_n\|^2 $$

    The paper has half the sum over classes. Centred, this is twice the limit of ``soft_target`` as T grows without bound:
    ``T² KL -> 1 / (2 C) ||z_s - z_t||²`` of centred logits (Hinton et al. 2015, section 2.1).

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        centre: Whether to subtract each row's mean over classes first, which no softmax depends on.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all if None.
        standardize: Whether to standardize each row of both first, which centres them too.

    Raises:
        ValueError: The shapes differ; or ``centre`` or ``standardize`` is on and there is only one class.

    Examples:
        >>> logit_mse(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
        tensor(1.6667)
    """

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        rows_s, rows_t = wide_rows(some_s, some_t, standardize)
        difference = rows_s - rows_t
        if centre and difference.shape[-1] < 2:
            raise ValueError("centred logits of a single class are 0: nothing is compared; set centre to False.")
        if centre:
            difference = difference - difference.mean(-1, keepdim=True)
        return difference.square().mean(-1)

    return mean_over_rows(loss, student, teacher, mask)


class LogitMSE(Criterion):
    r"""The student's logits against the teacher's: the mean squared difference over classes and rows.

    $$ \tfrac1C \|z^s - z^t\|^2 $$ ([Ba and Caruana 2014](https://arxiv.org/abs/1312.6184)), see ``logit_mse``.

    Its scale is that of the logits: large ones need a weight below 1. Tang et al. 2019
    ("Distilling Task-Specific Knowledge from BERT into Simple Neural Networks") use it as the only loss, without labels.

    Args:
        centre: Whether to subtract each row's mean over classes first, which changes no softmax; not for sigmoids.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024); not for sigmoids.

    Raises:
        ValueError: In use: one of the two is on and there is only one class.

    Examples:
        >>> LogitMSE(centre=True)(Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]])))
        tensor(1.5556)
    """

    citation = Citation(
        "logit MSE",
        'Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", NeurIPS',
        weight=1.0,
        url="https://arxiv.org/abs/1312.6184",
    )
    compares_logits = True

    def __init__(self, centre: bool = False, standardize: bool = False) -> None:
        super().__init__()
        self.centre = check_flag("centre", centre)
        self.standardize = check_flag("standardize", standardize)
        if self.centre or self.standardize:
            self.task = "multiclass"

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        logits_s, logits_t = student.logits, teacher.logits
        if logits_s.dim() == 1:  # a binary task
            logits_s, logits_t = logits_s.unsqueeze(1), logits_t.unsqueeze(1)
        return logit_mse(logits_s, logits_t, self.centre, student.logit_mask, self.standardize)
