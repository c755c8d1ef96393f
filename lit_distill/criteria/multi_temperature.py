"""Soft targets at several temperatures: the instance level of multi-level logit distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.soft_target import soft_target
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_temperatures

MLKD_PAPER = 'Jin et al. 2023, "Multi-Level Logit Distillation", CVPR'
MLKD_URL = "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"


def multi_temperature(
    student: Tensor,
    teacher: Tensor,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    mask: Tensor | None = None,
    standardize: bool = False,
) -> Tensor:
    r"""Return soft targets averaged over temperatures (Jin et al. 2023, see ``MultiTemperature``).

    $$ \mathrm{mean}_T\; T^2 \tfrac1N \sum_n \mathrm{KL}(p^t_n \| p^s_n), \quad p = \mathrm{softmax}(z / T) $$

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: The same shape.
        temperatures: Each above 0.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all if None.
        standardize: Whether to standardize each row of both first.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> multi_temperature(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
        tensor(0.8833)
    """
    values = [soft_target(student, teacher, t, mask=mask, standardize=standardize) for t in temperatures]
    return torch.stack(values).mean()


class MultiTemperature(Criterion):
    r"""Soft targets at several temperatures at once, so that none has to be tuned.

    $$ \mathrm{mean}_T\; T^2\,\mathrm{KL}(p^t \| p^s) $$
    ([Jin et al. 2023](https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html)),
    see ``multi_temperature``.

    ``LogitRelation`` is the method's other two levels. The whole method also shows both networks a weakly and a strongly
    augmented view and trains longer, so that its published results (CIFAR-100, ResNet-56 to ResNet-20: 72.19) are not those
    of these criteria. The authors' code sums over temperatures: multiply its weight by 5.

    Args:
        temperatures: Each above 0; 2, 3, 4, 5 and 6 in the authors' code.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: There is none, or one is out of range.

    Examples:
        >>> student, teacher = Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> MultiTemperature((1.0, 4.0))(student, teacher)
        tensor(0.8462)
    """

    citation = Citation("MLKD, instances", MLKD_PAPER, weight=5.0, url=MLKD_URL)
    compares_logits = True
    task: Task = "multiclass"

    def __init__(self, temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0), standardize: bool = False) -> None:
        super().__init__()
        self.standardize = check_flag("standardize", standardize)
        self.temperatures = check_temperatures(temperatures)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        logits, mask = (student.logits, teacher.logits), student.logit_mask
        return multi_temperature(*logits, self.temperatures, mask, self.standardize)
