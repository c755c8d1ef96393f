"""Soft targets: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, check_class_task, check_same_classes, valid_rows
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_flag, check_number, check_temperature

Divergence = Literal["forward", "reverse", "jensen_shannon", "skew"]
DIVERGENCES: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon", "skew")


def soft_target(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    mask: Tensor | None = None,
    skew: float = 0.1,
    standardize: bool = False,
) -> Tensor:
    """``T² · mean_n D(p_t || p_s)`` with ``p = softmax(z / T)``: summed over classes, mean over rows.

    - ``forward``: ``KL(p_t || p_s)``, the paper's.
    - ``reverse``: ``KL(p_s || p_t)``.
    - ``jensen_shannon``: the generalised ``beta KL(p_t || m) + (1 - beta) KL(p_s || m)`` with ``m = beta p_t +
      (1 - beta) p_s`` (Agarwal et al. 2024, section 2). For a small ``beta`` it is near ``beta`` times the forward KL,
      for one near 1 near ``1 - beta`` times the reverse KL, and close to the teacher ``beta (1 - beta)`` times either: a
      weight does not carry over from one ``beta`` to another. (TRL takes 0 and 1 as the forward and the reverse KL, so
      that its loss jumps there.)
    - ``skew``: ``KL(p_t || skew p_t + (1 - skew) p_s)`` (Ko et al. 2024, "DistiLLM", section 3.1, with 0.1). It never
      exceeds ``-log skew``, however wrong the student; close to the teacher it is ``(1 - skew)²`` times the forward KL.

    All is done in log space: finite, with finite gradients, at logits of ±1e4. Large logits are taken some
    rows at a time, so that nothing of their size but the gradient is held.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        temperature: ``T`` above 0.
        divergence: Which divergence ``D``.
        beta: The teacher's share of the mixture of ``jensen_shannon``, in (0, 1).
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all count where None.
        skew: The teacher's share of the mixture of ``skew``, in (0, 1).
        standardize: Whether to standardize each row of both first (``standardization.standardize``).
    """
    need_classes(student)

    def loss(rows_s: Tensor, rows_t: Tensor) -> Tensor:
        rows_s, rows_t = at_least_float32(valid_rows(rows_s)), at_least_float32(valid_rows(rows_t))
        if standardize:
            rows_s, rows_t = standardized(rows_s), standardized(rows_t)
        return temperature**2 * _divergence(rows_s / temperature, rows_t / temperature, divergence, beta, skew)

    return mean_over_rows(loss, student, teacher, mask)


def _divergence(student: Tensor, teacher: Tensor, divergence: Divergence, beta: float, skew: float) -> Tensor:
    """``D(p_t || p_s)`` of each row of softened logits ``[n, C]``: ``[n]``."""
    log_s, log_t = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    if divergence == "forward":
        return kl_divergence(log_t, log_s)
    if divergence == "reverse":
        return kl_divergence(log_s, log_t)
    share = beta if divergence == "jensen_shannon" else skew
    mixture = torch.logaddexp(log_t + math.log(share), log_s + math.log1p(-share))
    if divergence == "skew":
        return kl_divergence(log_t, mixture)
    return beta * kl_divergence(log_t, mixture) + (1 - beta) * kl_divergence(log_s, mixture)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_c p (log p - log q)`` of each row ``[..., C]`` of log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def soft_target_bernoulli(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    mask: Tensor | None = None,
    skew: float = 0.1,
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
        skew: As in ``soft_target``.
    """

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        pairs = []
        for z in (some_s, some_t):
            softened = at_least_float32(z) / temperature
            pairs.append(torch.stack([softened, torch.zeros_like(softened)], dim=-1).flatten(0, -2))
        return temperature**2 * _divergence(pairs[0], pairs[1], divergence, beta, skew)

    return mean_over_rows(loss, student, teacher, mask)


class SoftTarget(Criterion):
    """The student's distribution against the teacher's, softened by a temperature.

    The value always carries T², so that its gradient keeps its size as T changes and a weight means the
    same at every temperature. The paper's and CIFAR practice: T = 4, weights 0.1 hard and 0.9 soft; with
    strong augmentation or many classes T = 1 does better. With ``standardize`` (Sun et al. 2024): T = 2, weights 0.1 hard
    and 9 soft, beside labels.

    Args:
        temperature: Above 0.
        divergence: ``forward`` (the paper's), ``reverse``, ``jensen_shannon`` or ``skew``.
        beta: The teacher's share of the Jensen-Shannon mixture, in (0, 1). A small one makes a small value.
        task: ``multiclass`` (softmax), ``binary`` or ``multilabel`` (sigmoid, one class at a time).
        skew: The teacher's share of the mixture of ``skew``, in (0, 1).
        standardize: Whether to standardize each row of both networks' logits first; ``multiclass`` alone.

    Raises:
        ValueError: An argument is out of range.
    """

    about = About(
        "KD",
        'Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", NeurIPS workshop',
        weight=0.9,
    )
    compares_logits = True

    def __init__(
        self,
        temperature: float = 4.0,
        divergence: Divergence = "forward",
        beta: float = 0.5,
        task: Task = "multiclass",
        skew: float = 0.1,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        check_choice("divergence", divergence, DIVERGENCES)
        check_class_task("SoftTarget", task)
        self.standardize = check_flag("standardize", standardize)
        if self.standardize and task != "multiclass":
            raise ValueError(
                f"standardize compares classes with each other, and the task {task!r} has none to compare."
            )
        self.temperature = check_temperature(temperature)
        self.divergence: Divergence = divergence
        self.beta = check_number("beta", beta, above=0, below=1)
        self.task: Task = task
        self.skew = check_number("skew", skew, above=0, below=1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        # A mask beside [B] or [B, C] logits belongs to the inputs' tokens.
        mask = student.mask if student.logits.dim() > 2 else None
        z_s, z_t = student.logits, teacher.logits
        t, divergence, beta, skew = self.temperature, self.divergence, self.beta, self.skew
        if self.task != "multiclass":
            return soft_target_bernoulli(z_s, z_t, t, divergence, beta, mask, skew)
        return soft_target(z_s, z_t, t, divergence, beta, mask, skew, self.standardize)
