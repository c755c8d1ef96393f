"""KD: soft targets."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion, at_least_float32, check_class_task
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.divergence import kl_divergence
from lit_distill.criteria.ops.rows import wide_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_flag, check_number, check_temperature, wrong_type

Divergence = Literal["forward", "reverse", "jensen_shannon", "skew"]
DIVERGENCES: tuple[Divergence, ...] = ("forward", "reverse", "jensen_shannon", "skew")
Standardize = bool | Literal["auto"]


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
    r"""Return the soft target loss, also known as KD ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531), section 2).

    $$ T^2 \tfrac1N \sum_n D(p^t_n \| p^s_n), \quad p = \mathrm{softmax}(z / T) $$

    - ``forward``: $D = \mathrm{KL}(p^t \| p^s)$, the paper's.
    - ``reverse``: $D = \mathrm{KL}(p^s \| p^t)$.
    - ``jensen_shannon``: the generalised $\beta\,\mathrm{KL}(p^t \| m) + (1 - \beta)\,\mathrm{KL}(p^s \| m)$ with
      $m = \beta p^t + (1 - \beta) p^s$ ([Agarwal et al. 2024](https://arxiv.org/abs/2306.13649), section 2). For a small
      ``beta`` it is near ``beta`` times the forward KL, for one near 1 near ``1 - beta`` times the reverse KL, and close to
      the teacher ``beta (1 - beta)`` times either: a weight does not carry over from one ``beta`` to another. (TRL treats 0
      and 1 as the forward and the reverse KL, so that its loss jumps there.)
    - ``skew``: $\mathrm{KL}(p^t \| \lambda p^t + (1 - \lambda) p^s)$ with $\lambda$ = ``skew``
      ([Ko et al. 2024](https://arxiv.org/abs/2402.03898), "DistiLLM", section 3.1, with 0.1). It never exceeds
      ``-log skew``, however wrong the student; close to the teacher it is ``(1 - skew)²`` times the forward KL.

    Everything is computed in log space: values and gradients are finite at logits of ±1e4. Large logits are processed in
    chunks of rows, so that only the gradient is held in full size.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        temperature: ``T`` above 0.
        divergence: ``forward``, ``reverse``, ``jensen_shannon`` or ``skew``.
        beta: The teacher's share of the mixture of ``jensen_shannon``, in (0, 1).
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all if None.
        skew: The teacher's share of the mixture of ``skew``, in (0, 1).
        standardize: Whether to standardize each row of both first (Sun et al. 2024).

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
        >>> soft_target(student, teacher, temperature=4.0)
        tensor(0.8812)
    """
    need_classes(student)

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        rows_s, rows_t = wide_rows(some_s, some_t, standardize)
        return temperature**2 * _divergence(rows_s / temperature, rows_t / temperature, divergence, beta, skew)

    return mean_over_rows(loss, student, teacher, mask)


def _divergence(student: Tensor, teacher: Tensor, divergence: Divergence, beta: float, skew: float) -> Tensor:
    """Return ``D(p_t || p_s)`` of each row of softened logits ``[n, C]``: ``[n]``."""
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


def soft_target_bernoulli(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 4.0,
    divergence: Divergence = "forward",
    beta: float = 0.5,
    mask: Tensor | None = None,
    skew: float = 0.1,
) -> Tensor:
    r"""Return soft targets of independent classes, each a sigmoid ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)).

    $$ T^2\,\mathrm{mean}_{n,c}\; D\bigl([q^t_{nc}, 1 - q^t_{nc}] \| [q^s_{nc}, 1 - q^s_{nc}]\bigr), \quad q = \sigma(z / T) $$

    It is ``soft_target`` of logits ``[z, 0]`` for each class; the mean over classes matches that of binary cross-entropy.

    Args:
        student: Logits, any shape.
        teacher: Logits, the same shape.
        temperature: ``T`` above 0.
        divergence: ``forward``, ``reverse``, ``jensen_shannon`` or ``skew``.
        beta: The teacher's share of the mixture of ``jensen_shannon``, in (0, 1).
        mask: True at the rows that count, for logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``; all if None.
        skew: The teacher's share of the mixture of ``skew``, in (0, 1).

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> soft_target_bernoulli(torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 0.0]]), temperature=1.0)
        tensor(0.1450)
    """

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        pairs = []
        for z in (some_s, some_t):
            softened = at_least_float32(z) / temperature
            pairs.append(torch.stack([softened, torch.zeros_like(softened)], dim=-1).flatten(0, -2))
        return temperature**2 * _divergence(pairs[0], pairs[1], divergence, beta, skew)

    return mean_over_rows(loss, student, teacher, mask)


class SoftTarget(Criterion):
    r"""The student's distribution against the teacher's, softened by a temperature.

    $$ T^2\,\mathrm{KL}(p^t \| p^s), \quad p = \mathrm{softmax}(z / T) $$
    ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)), see ``soft_target`` and ``soft_target_bernoulli``.

    The factor T² keeps the size of the gradient as T changes, so that a weight means the
    same at every temperature. The paper's and CIFAR practice: T = 4, weights 0.1 hard and 0.9 soft; with
    strong augmentation or many classes T = 1 does better. With ``standardize``
    ([Sun et al. 2024](https://arxiv.org/abs/2403.01427)): T = 2, weights 0.1 hard and 9 soft.

    Args:
        temperature: The softmax temperature, above 0.
        divergence: ``forward`` (the paper's), ``reverse``, ``jensen_shannon`` or ``skew``.
        beta: The teacher's share of the Jensen-Shannon mixture, in (0, 1). A small one makes a small value.
        task: ``multiclass`` (softmax), ``binary`` or ``multilabel`` (sigmoid, one class at a time).
        skew: The teacher's share of the mixture of ``skew``, in (0, 1).
        standardize: Whether to standardize each row of both networks' logits first; only ``multiclass``. With ``auto``, a
            module decides before its fit, from an example: it does where that is known to be sound.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> student, teacher = Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> SoftTarget(temperature=2.0)(student, teacher)
        tensor(0.9153)
    """

    citation = Citation(
        "KD",
        'Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", NeurIPS workshop',
        weight=0.9,
        url="https://arxiv.org/abs/1503.02531",
    )
    compares_logits = True
    _standardize_was_auto: bool = False

    def __init__(
        self,
        temperature: float = 4.0,
        divergence: Divergence = "forward",
        beta: float = 0.5,
        task: Task = "multiclass",
        skew: float = 0.1,
        standardize: Standardize = False,
    ) -> None:
        super().__init__()
        check_choice("divergence", divergence, DIVERGENCES)
        check_class_task("SoftTarget", task)
        self.standardize: Standardize = check_standardize(standardize)
        if self.standardize == AUTO and task != "multiclass":
            self.standardize = False
        self._standardize_was_auto = self.standardize == AUTO
        if self.standardize and task != "multiclass":
            raise ValueError(
                f"standardize compares classes with each other, and the task {task!r} has none to compare."
            )
        self.temperature: float = check_temperature(temperature)
        self.divergence: Divergence = divergence
        self.beta = check_number("beta", beta, above=0, below=1)
        self.task: Task = task
        self.skew = check_number("skew", skew, above=0, below=1)

    @property
    def standardize_was_auto(self) -> bool:
        """True if ``standardize`` was given as ``auto``; it is True or False once decided."""
        return self._standardize_was_auto

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        z_s, z_t, mask = student.logits, teacher.logits, student.logit_mask
        t, divergence, beta, skew = self.temperature, self.divergence, self.beta, self.skew
        if self.task != "multiclass":
            return soft_target_bernoulli(z_s, z_t, t, divergence, beta, mask, skew)
        if self.standardize == AUTO:
            raise ValueError(
                "standardize is 'auto', and nothing has decided it yet: a module does so in the dry run before its fit, for a "
                "criterion that no other one holds. Give True or False."
            )
        return soft_target(z_s, z_t, t, divergence, beta, mask, skew, self.standardize)


def check_standardize(standardize: object) -> Standardize:
    """Return True, False or ``auto``; refuse all else."""
    if isinstance(standardize, str):
        if standardize != AUTO:
            raise wrong_type("standardize", standardize, "give True or False, or 'auto'.")
        return AUTO
    return check_flag("standardize", standardize)
