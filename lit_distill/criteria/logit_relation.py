"""Relations among predictions: Jin, Wang and Lin 2023, "Multi-Level Logit Distillation"."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, paired_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperatures


def logit_relation(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, batch: float = 1.0, classes: float = 1.0
) -> Tensor:
    """``batch · ||P_t P_t' - P_s P_s'||² / N + classes · ||P_t' P_t - P_s' P_s||² / C`` with ``P = softmax(z / T)``.

    The first compares which samples are predicted alike, the second which classes are predicted together. Both are sums of
    squares: near one-hot predictions they grow as ``N / C`` and ``(N / C)²``. As in the paper there is no T²: it would not
    keep the gradient's size, which falls as 1/T² for the classes and faster for the samples.

    Args:
        student: Logits ``[N, C]``.
        teacher: Logits ``[N, C]``.
        temperature: ``T`` above 0.
        batch: Weight of the samples' relation.
        classes: Weight of the classes' relation.
    """
    need_classes(student)
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
    """Which samples, and which classes, the networks predict alike: the batch and the class level of MLKD.

    The mean over temperatures. It has no parameters and costs an ``N × N`` and a ``C × C`` product for each network and
    temperature: on sequences and dense logits ``N`` is every position, so leave ``batch`` at 0 there. The authors' code
    sums over temperatures, with one weight for all of its parts: 5 times that weight is the same here.

    Elsewhere: the authors' code computes both for the strongly augmented view too, and drops them; its mask of confident
    samples multiplies a value that is already a mean, and so is but a factor.

    Args:
        temperatures: Each above 0; 2, 3, 4, 5 and 6 in the authors' code.
        batch: Weight of the samples' relation, at least 0.
        classes: Weight of the classes' relation, at least 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: A temperature or a weight is out of range, or both weights are 0.
    """

    about = About("MLKD, relations", 'Jin et al. 2023, "Multi-Level Logit Distillation", CVPR', weight=5.0)
    compares_logits = True
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
        rows_s, rows_t = paired_rows(student, teacher)
        if self.standardize:
            rows_s, rows_t = standardized(rows_s), standardized(rows_t)
        values = [
            logit_relation(rows_s, rows_t, temperature, self.batch, self.classes) for temperature in self.temperatures
        ]
        return torch.stack(values).mean()
