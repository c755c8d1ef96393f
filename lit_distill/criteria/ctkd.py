"""CTKD: curriculum temperature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.ops.rows import check_same_classes, paired_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_number


class _ReverseGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by ``-strength`` (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def ctkd(student: Tensor, teacher: Tensor, temperature: Tensor, strength: float = 1.0) -> Tensor:
    r"""Return soft targets at a temperature learned against the student ([Li et al. 2023](https://arxiv.org/abs/2211.16231)).

    $$ T^2 \tfrac1N \sum_n \mathrm{KL}(p^t \| p^s), \quad p = \mathrm{softmax}(z / T) $$

    The gradient of T is reversed and multiplied by ``strength``: what lowers the value for the student raises it for T.

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teacher: Logits, the same shape.
        temperature: ``T``, a scalar above 0, which may require a gradient.
        strength: The factor of the reversed gradient, at least 0.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> temperature = torch.tensor(2.0, requires_grad=True)
        >>> value = ctkd(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]), temperature)
        >>> value.backward()
        >>> round(value.item(), 4), round(temperature.grad.item(), 4)
        (0.361, -0.1086)
    """
    need_classes(student)
    check_same_classes(student, teacher)
    reversed_: Tensor = _ReverseGradient.apply(temperature, strength)
    divergence = softmax_kl(student / reversed_, teacher / reversed_)
    return reversed_.square() * divergence.sum() / max(len(student), 1)


class CTKD(Criterion):
    r"""Soft targets at one temperature for all samples, learned *against* the student.

    $$ \min_s \max_\theta\; T^2\,\mathrm{KL}(p^t \| p^s), \quad T = \mathrm{low} + \mathrm{span}\cdot\mathrm{sigmoid}(\theta) $$
    ([Li et al. 2023](https://arxiv.org/abs/2211.16231)), see ``ctkd``.

    ``theta`` starts at 1 and is a parameter of this criterion: trained by the same optimizer, including its weight decay,
    as in the authors' code, and saved. The strength of its reversed gradient is the paper's curriculum: schedule
    ``<name>.strength`` from 0 to 1, in half a cosine over the first 10 epochs. T is logged. This is the paper's global
    version; the instance-wise one predicts T from the logits. On CIFAR-100 the labels' weight is 0.1. Recorded logits can
    be used, soft targets recorded at a fixed temperature cannot.

    Args:
        low: The lowest temperature, above 0; 1 in the paper.
        span: The highest temperature minus the lowest, above 0; 20 in the paper.
        strength: The factor of the temperature's reversed gradient, at least 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> criterion = CTKD()
        >>> value = criterion(Outputs(torch.tensor([[1.0, 0.0]])), Outputs(torch.tensor([[3.0, 0.0]])))
        >>> round(criterion.temperature, 2), round(value.item(), 4)
        (15.62, 0.4971)
    """

    citation = Citation(
        "CTKD",
        'Li et al. 2023, "Curriculum Temperature for Knowledge Distillation", AAAI',
        weight=0.9,
        url="https://arxiv.org/abs/2211.16231",
    )
    compares_logits = True
    task: Task = "multiclass"

    def __init__(self, low: float = 1.0, span: float = 20.0, strength: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self._low = check_number("low", low, above=0)
        self._span = check_number("span", span, above=0)
        self.strength = check_number("strength", strength, least=0)
        self.standardize = check_flag("standardize", standardize)
        self.theta = nn.Parameter(torch.ones(()))

    @property
    def temperature(self) -> float:
        """The present temperature."""
        return float(self._learned(self.theta.detach()))

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        raise ValueError("CTKD learns its temperature; schedule its strength instead.")

    def _learned(self, theta: Tensor) -> Tensor:
        return self._low + self._span * theta.sigmoid()

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = paired_rows(student, teacher, self.standardize)
        return ctkd(*rows, self._learned(self.theta), self.strength)
