"""Soft targets: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.base import (
    TASKS,
    Criterion,
    Task,
    at_least_float32,
    check_choice,
    check_same_classes,
    check_temperature,
    counted,
    paired_rows,
)
from lit_distill.outputs import Outputs

Divergence = Literal["forward", "reverse", "jensen_shannon"]
DIVERGENCES: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon")


def soft_target(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
) -> Tensor:
    """``T² · mean_n D(p_t || p_s)`` with ``p = softmax(z / T)``: summed over classes, mean over rows.

    ``forward`` is KL(p_t || p_s), the paper's; ``reverse`` is KL(p_s || p_t); ``jensen_shannon`` is the
    generalised ``beta KL(p_t || m) + (1 - beta) KL(p_s || m)`` with ``m = beta p_t + (1 - beta) p_s``
    (Agarwal et al. 2024, section 2), which is near ``beta`` times the forward KL for a small ``beta``.
    All is done in log space: finite, with finite gradients, at logits of ±1e4.

    Args:
        student: Logits ``[N, C]``.
        teacher: Logits ``[N, C]``.
        temperature: ``T`` above 0.
        divergence: Which divergence ``D``.
        beta: The teacher's share of the mixture, in (0, 1); read by ``jensen_shannon`` alone.
    """
    log_s = F.log_softmax(at_least_float32(student) / temperature, dim=-1)
    log_t = F.log_softmax(at_least_float32(teacher) / temperature, dim=-1)
    if divergence == "forward":
        value = _kl(log_t, log_s)
    elif divergence == "reverse":
        value = _kl(log_s, log_t)
    else:
        mixture = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
        value = beta * _kl(log_t, mixture) + (1 - beta) * _kl(log_s, mixture)
    return value * temperature**2


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``mean_n sum_c p (log p - log q)``."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def soft_target_bernoulli(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
) -> Tensor:
    """The same for independent classes: ``q = sigmoid(z / T)`` in place of the softmax, mean over classes.

    Each class is a distribution over {1, 0} with logits ``[z, 0]``, so that the formula above applies; the
    mean over classes matches that of binary cross-entropy.

    Args:
        student: Logits, any shape.
        teacher: Logits, the same shape.
        temperature: ``T`` above 0.
        divergence: As in ``soft_target``.
        beta: As in ``soft_target``.
    """
    pair_s = torch.stack([student, torch.zeros_like(student)], dim=-1).flatten(0, -2)
    pair_t = torch.stack([teacher, torch.zeros_like(teacher)], dim=-1).flatten(0, -2)
    return soft_target(pair_s, pair_t, temperature, divergence, beta)


class SoftTarget(Criterion):
    """The student's distribution against the teacher's, softened by a temperature.

    The value always carries T², so that its gradient keeps its size as T changes and a weight means the
    same at every temperature. The paper's and CIFAR practice: T = 4, weights 0.1 hard and 0.9 soft; with
    strong augmentation or many classes T = 1 does better.

    Args:
        temperature: Above 0.
        divergence: ``forward`` (the paper's), ``reverse`` or ``jensen_shannon``.
        beta: The teacher's share of the Jensen-Shannon mixture, in (0, 1).
        task: ``multiclass`` (softmax), ``binary`` or ``multilabel`` (sigmoid, one class at a time).

    Raises:
        ValueError: An argument is out of range.
    """

    compares_logits = True

    def __init__(
        self,
        temperature: float = 4.0,
        divergence: Divergence = "forward",
        beta: float = 0.5,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        check_choice("divergence", divergence, DIVERGENCES)
        check_choice("task", task, TASKS)
        if not 0 < beta < 1:
            raise ValueError(f"beta must be in (0, 1), not {beta}.")
        self.temperature = check_temperature(temperature)
        self.divergence: Divergence = divergence
        self.beta = beta
        self.task: Task = task

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if self.task != "multiclass":
            check_same_classes(student.logits, teacher.logits)
            return soft_target_bernoulli(
                counted(student.logits, student.mask),
                counted(teacher.logits, student.mask),
                self.temperature,
                self.divergence,
                self.beta,
            )
        rows_s, rows_t = paired_rows(student, teacher)
        return soft_target(rows_s, rows_t, self.temperature, self.divergence, self.beta)
