"""Relations among predictions: the batch and class levels of multi-level logit distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.multi_temperature import MLKD_PAPER, MLKD_URL
from lit_distill.criteria.ops.rows import check_same_classes, paired_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperatures


def logit_relation(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, batch: float = 1.0, classes: float = 1.0
) -> Tensor:
    r"""Return the relation terms of multi-level logit distillation (Jin et al. 2023, see ``LogitRelation``).

    $$ \frac{w_b}{N} \|P^t P^{t\top} - P^s P^{s\top}\|^2 + \frac{w_c}{C} \|P^{t\top} P^t - P^{s\top} P^s\|^2,
    \quad P = \mathrm{softmax}(z / T) $$

    The first compares which samples are predicted alike, the second which classes are predicted together. Both are sums of
    squares: for nearly one-hot predictions they grow as ``N / C`` and ``(N / C)²``. As in the paper there is no T²: it
    would not keep the size of the gradient.

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teacher: Logits, the same shape.
        temperature: ``T`` above 0.
        batch: Weight of the samples' relation.
        classes: Weight of the classes' relation.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]])
        >>> logit_relation(student, teacher, temperature=1.0)
        tensor(0.3669)
    """
    need_classes(student)
    check_same_classes(student, teacher)
    if not len(student):
        return student.sum()  # no position counts: 0, with a gradient of 0
    p_s, p_t = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    value = student.new_zeros(())
    if batch:
        value = value + batch * (p_t @ p_t.T - p_s @ p_s.T).square().sum() / len(student)
    if classes:
        value = value + classes * (p_t.T @ p_t - p_s.T @ p_s).square().sum() / student.shape[1]
    return value


class LogitRelation(Criterion):
    r"""Compares which samples, and which classes, each network predicts alike; the mean over temperatures.

    $$ \frac{w_b}{N} \|P^t P^{t\top} - P^s P^{s\top}\|^2 + \frac{w_c}{C} \|P^{t\top} P^t - P^{s\top} P^s\|^2 $$
    ([Jin et al. 2023](https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html)),
    see ``logit_relation``.

    It has no parameters and costs an ``N × N`` and a ``C × C`` product per network and temperature: for sequences and dense
    logits ``N`` counts every position, so set ``batch`` to 0 there. The authors' code sums over temperatures, with one
    weight for all of its parts: 5 times that weight is the same here. Its mask of confident samples is only a factor.

    Args:
        temperatures: Each above 0; 2, 3, 4, 5 and 6 in the authors' code.
        batch: Weight of the samples' relation, at least 0.
        classes: Weight of the classes' relation, at least 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: A temperature or a weight is out of range, or both weights are 0.

    Examples:
        >>> student = Outputs(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> LogitRelation()(student, Outputs(torch.tensor([[3.0, 0.0], [0.0, 3.0]])))
        tensor(0.0348)
    """

    citation = Citation("MLKD, relations", MLKD_PAPER, weight=5.0, url=MLKD_URL)
    compares_logits = True
    auto_ratio = 0.3  # with 1, ML-KD loses two points on digits
    task: Task = "multiclass"

    def __init__(
        self,
        temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
        batch: float = 1.0,
        classes: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperatures = check_temperatures(temperatures)
        self.batch, self.classes = check_shares({"batch": batch, "classes": classes})
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = paired_rows(student, teacher, self.standardize)
        values = [logit_relation(*rows, temperature, self.batch, self.classes) for temperature in self.temperatures]
        return torch.stack(values).mean()
