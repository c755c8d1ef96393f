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
    valid_rows,
)
from lit_distill.criteria.chunked import mean_over_rows
from lit_distill.outputs import Outputs

Divergence = Literal["forward", "reverse", "jensen_shannon"]
DIVERGENCES: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon")


def soft_target(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """``T² · mean_n D(p_t || p_s)`` with ``p = softmax(z / T)``: summed over classes, mean over rows.

    ``forward`` is KL(p_t || p_s), the paper's; ``reverse`` is KL(p_s || p_t); ``jensen_shannon`` is the
    generalised ``beta KL(p_t || m) + (1 - beta) KL(p_s || m)`` with ``m = beta p_t + (1 - beta) p_s``
    (Agarwal et al. 2024, section 2), which is near ``beta`` times the forward KL for a small ``beta``.
    All is done in log space: finite, with finite gradients, at logits of ±1e4. Large logits are taken some
    rows at a time, so that nothing of their size but the gradient is held.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        temperature: ``T`` above 0.
        divergence: Which divergence ``D``.
        beta: The teacher's share of the mixture, in (0, 1); read by ``jensen_shannon`` alone.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all count where None.
    """

    def loss(rows_s: Tensor, rows_t: Tensor) -> Tensor:
        return temperature**2 * _divergence(valid_rows(rows_s), valid_rows(rows_t), temperature, divergence, beta)

    return mean_over_rows(loss, student, teacher, mask)


def _divergence(student: Tensor, teacher: Tensor, temperature: float, divergence: Divergence, beta: float) -> Tensor:
    """``D(p_t || p_s)`` of each row of logits ``[n, C]``: ``[n]``, in float32 or wider."""
    log_s = F.log_softmax(at_least_float32(student) / temperature, dim=-1)
    log_t = F.log_softmax(at_least_float32(teacher) / temperature, dim=-1)
    if divergence == "forward":
        return _kl(log_t, log_s)
    if divergence == "reverse":
        return _kl(log_s, log_t)
    mixture = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    return beta * _kl(log_t, mixture) + (1 - beta) * _kl(log_s, mixture)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_c p (log p - log q)`` of each row."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def soft_target_bernoulli(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """The same for independent classes: ``q = sigmoid(z / T)`` in place of the softmax, mean over classes.

    Each class is a distribution over {1, 0} with logits ``[z, 0]``, so that the formula above applies; the
    mean over classes matches that of binary cross-entropy.

    Args:
        student: Logits, any shape.
        teacher: Logits, the same shape.
        temperature: As in ``soft_target``.
        divergence: As in ``soft_target``.
        beta: As in ``soft_target``.
        mask: As in ``soft_target``, beside logits of its shapes.
    """

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        pair_s, pair_t = (torch.stack([z, torch.zeros_like(z)], dim=-1).flatten(0, -2) for z in (some_s, some_t))
        return temperature**2 * _divergence(pair_s, pair_t, temperature, divergence, beta)

    return mean_over_rows(loss, student, teacher, mask)


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
        check_same_classes(student.logits, teacher.logits)
        formula = soft_target if self.task == "multiclass" else soft_target_bernoulli
        # A mask beside [B] or [B, C] logits belongs to the inputs' tokens.
        mask = student.mask if student.logits.dim() > 2 else None
        return formula(student.logits, teacher.logits, self.temperature, self.divergence, self.beta, mask)
