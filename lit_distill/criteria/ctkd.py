"""CTKD: Li et al. 2023, "Curriculum Temperature for Knowledge Distillation"."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, paired_rows
from lit_distill.criteria.ops.standardization import standardize
from lit_distill.criteria.soft_target import kl_divergence
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_number


class _ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-strength`` (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def soft_target_at(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """``T² · mean_n KL(p_t || p_s)`` with ``p = softmax(z / T)`` at a temperature that is learned.

    Args:
        student: Logits ``[N, C]``.
        teacher: Logits ``[N, C]``.
        temperature: A scalar above 0, which may carry a gradient.
    """
    need_classes(student)
    log_s = F.log_softmax(student / temperature, dim=-1)
    log_t = F.log_softmax(teacher / temperature, dim=-1)
    return temperature.square() * kl_divergence(log_t, log_s).sum() / max(len(student), 1)


class CTKD(Criterion):
    """Soft targets at one temperature for all samples, learned *against* the student.

    ``T = low + span · sigmoid(theta)``; the student lowers ``T² · KL`` while ``theta``, through a gradient that is turned
    round and multiplied by ``strength``, raises it. ``theta`` starts at 1 and is a parameter of this criterion: trained by
    the same optimizer, its weight decay included, as in the authors' code, and saved. The strength is the paper's
    curriculum: schedule ``<name>.strength`` from 0 to 1, in half a cosine over the first 10 epochs. T is logged.

    This is the paper's global version; the instance-wise one predicts T from the logits. The weight is 0.9 beside 0.1 for
    the labels on CIFAR-100. Soft targets recorded at a fixed temperature cannot be used: logits can.

    Args:
        low: The least temperature, above 0; 1 in the paper.
        span: What the largest exceeds it by, above 0; 20 in the paper.
        strength: Of the reversed gradient, at least 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: An argument is out of range.
    """

    about = About("CTKD", 'Li et al. 2023, "Curriculum Temperature for Knowledge Distillation", AAAI', weight=0.9)
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
        """The temperature as it is now."""
        return float(self._learned(self.theta.detach()))

    @temperature.setter
    def temperature(self, value: float) -> None:
        raise ValueError("CTKD learns its temperature; schedule its strength in place of it.")

    def _learned(self, theta: Tensor) -> Tensor:
        return self._low + self._span * theta.sigmoid()

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        theta: Tensor = _ReverseGradient.apply(self.theta, self.strength)
        rows_s, rows_t = paired_rows(student, teacher)
        if self.standardize:
            rows_s, rows_t = standardize(rows_s), standardize(rows_t)
        return soft_target_at(rows_s, rows_t, self._learned(theta))
