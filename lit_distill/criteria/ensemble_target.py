"""Soft targets from several teachers, weighted per sample, per batch or by learned weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import labelled
from lit_distill.batch.labels import Task, need_classes, unknown
from lit_distill.criteria.base import Criterion, at_least_float32
from lit_distill.criteria.hard_target import hard_target
from lit_distill.criteria.layers import expand_layers
from lit_distill.criteria.ops.divergence import favour_small, kl_divergence, log_mixture, normalised
from lit_distill.criteria.ops.labelled import need_labels
from lit_distill.criteria.ops.rows import check_same_classes, valid_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import (
    check_choice,
    check_flag,
    check_number,
    check_numbers,
    check_temperature,
    layer_tuple,
)

Weighting = Literal["average", "confidence", "agreement", "learned"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


def ensemble_target(
    student: Tensor,
    teachers: Sequence[Tensor],
    weights: Sequence[float | Tensor] | None = None,
    temperature: float = 4.0,
) -> Tensor:
    r"""Return soft targets from a mixture of teachers ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)).

    $$ T^2 \tfrac1N \sum_n \mathrm{KL}\Bigl(\sum_k w_k p^k_n \Big\| p^s_n\Bigr), \quad p = \mathrm{softmax}(z / T) $$

    Papers write the weighted sum of each teacher's KL: it is larger by how much the teachers differ among themselves, which no
    student changes, so its gradient is the same; this form is 0 if the student equals the mixture.

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teachers: Logits ``[N, C]`` of each teacher.
        weights: A number per teacher, or a tensor that broadcasts to ``[N, 1]``; they sum to 1. Equal if None.
        temperature: ``T`` above 0.

    Raises:
        ValueError: There is only one class.

    Examples:
        >>> student, teachers = torch.tensor([[1.0, 0.0]]), [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
        >>> ensemble_target(student, teachers)
        tensor(0.0004)
        >>> ensemble_target(student, teachers, confidence_weights(teachers, torch.tensor([0])))
        tensor(0.1344)
    """
    need_classes(student)
    log_t = log_mixture(teachers, normalised(None, len(teachers)) if weights is None else weights, temperature)
    divergence = kl_divergence(log_t, F.log_softmax(student / temperature, -1))
    return temperature**2 * divergence.sum() / max(len(student), 1)


def confidence_weights(teachers: Sequence[Tensor], target: Tensor) -> Tensor:
    r"""Return weights of teachers by how well each knows the label ([Zhang et al. 2022](https://arxiv.org/abs/2201.00007)).

    $$ w_k = \frac{1 - \mathrm{softmax}_k(\mathrm{CE}_k)}{K - 1} $$

    The weights, ``[K, N, 1]``, sum to 1 over the teachers. The authors' code divides by K once more.

    Args:
        teachers: Logits ``[N, C]`` of each of the K teachers.
        target: Class indices ``[N]`` (-100 if unknown: equal weights), or class probabilities ``[N, C]``.

    Examples:
        >>> teachers = [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
        >>> confidence_weights(teachers, torch.tensor([0])).flatten()
        tensor([0.7798, 0.2202])
    """
    if target.is_floating_point():
        target = target.masked_fill(unknown(target).unsqueeze(-1), 0).to(teachers[0].dtype)
    losses = [F.cross_entropy(z, target, reduction="none", ignore_index=IGNORED_LABEL) for z in teachers]
    return favour_small(torch.stack(losses).softmax(0)).unsqueeze(-1)


def agreement_weights(
    student: Tensor, teachers: Sequence[Tensor], temperature: float = 4.0, tolerance: float = 0.6
) -> list[float]:
    r"""Return the weights of teachers whose mixed gradient is smallest.

    $$ \min_a \bigl\|\sum_k a_k g_k\bigr\|, \quad a_k \in [0, C],\; \sum_k a_k = 1,\; g_k = T (p^s - p^k) / N $$

    Then a step towards the mixture is a step towards as many teachers as possible. $g_k$ is the gradient of teacher k's
    soft target with respect to the student's logits. Du et al. 2020, "Agree to Disagree: Adaptive Ensemble Knowledge
    Distillation in Gradient Space", NeurIPS (AE-KD; there with an SVM solver).

    Args:
        student: Logits ``[N, C]``.
        teachers: Logits ``[N, C]`` of each of the K teachers.
        temperature: ``T`` above 0.
        tolerance: ``C`` in (0, 1]: no teacher's weight is above it. At 1 a single teacher may get all the weight; at 1 / K
            and below, all weights are equal.

    Returns:
        K weights, computed on the CPU; with several processes, each has its own.

    Examples:
        >>> agreement_weights(torch.zeros(1, 2), [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])])
        [0.5, 0.5]
    """
    with torch.no_grad():
        p_s = F.softmax(student.double() / temperature, -1)
        gradients = torch.stack([(p_s - F.softmax(z.double() / temperature, -1)).flatten() for z in teachers])
        gram: list[list[float]] = (gradients @ gradients.T).tolist()
    return smallest_norm(gram, max(tolerance, 1 / len(teachers)))


def smallest_norm(gram: Sequence[Sequence[float]], limit: float, precision: float = 1e-9) -> list[float]:
    """Return the ``a`` in ``[0, limit]^K`` with ``sum a = 1`` that minimizes ``a^T G a``, for inner products ``G`` ``[K, K]``.

    Weight is moved, as far as it helps, from the entry with the largest gradient ``G a`` to the one with the smallest
    (sequential minimal optimisation: Platt 1998), until the two differ by less than ``precision`` times the largest diagonal
    entry. A few dozen moves for a handful of teachers; at most 10,000. ``limit`` is at least 1 / K.
    """
    count = len(gram)
    a = [1 / count] * count
    scale = max(gram[k][k] for k in range(count))
    for _ in range(10_000):
        slope = [sum(g * x for g, x in zip(row, a, strict=True)) for row in gram]
        up = min((k for k in range(count) if a[k] < limit), key=lambda k: slope[k], default=0)
        down = max((k for k in range(count) if a[k] > 0), key=lambda k: slope[k])
        if slope[down] - slope[up] <= precision * scale:
            break
        curvature = gram[up][up] + gram[down][down] - 2 * gram[up][down]
        room = min(limit - a[up], a[down])
        move = min((slope[down] - slope[up]) / curvature, room) if curvature > 0 else room
        a[up], a[down] = a[up] + move, a[down] - move
    return a


class EnsembleTarget(Criterion):
    r"""The student's distribution against a mixture of several teachers' distributions.

    $$ T^2\,\mathrm{KL}\bigl(\textstyle\sum_k w_k p^k \,\big\|\, p^s\bigr) $$, see ``ensemble_target``.

    The teacher is a ``lit_distill.Ensemble``, whose members are read as its layers ``0``, ``1``, …; set its
    ``average: none`` so that nothing is averaged twice. The weights of the mixture:

    - ``average``: ``weights``, the same for all samples, as a ``SoftTarget`` with an ``Ensemble`` at the same temperature.
    - ``confidence``: per sample, by the teachers' cross-entropy with its label
      ([Zhang et al. 2022](https://arxiv.org/abs/2201.00007), ``confidence_weights``). Needs labels.
    - ``agreement``: per batch, by the agreement of the gradients (``agreement_weights``).
    - ``learned``: ``softmax(v)`` with a parameter ``v`` of one number per teacher, trained by the mixture's cross-entropy
      with the labels (temperature 1), which is added to the value. The student's term does not train ``v``: it would
      favour the teacher that the student already equals. Needs labels.

    It reads layers, so use it in ``CombinedDistillation`` or ``DistillationModule``, not in ``LogitDistillation``.

    Args:
        teachers: The members to mix: layer references or globs. ``*`` is all of an ``Ensemble``.
        weighting: ``average``, ``confidence``, ``agreement`` or ``learned``.
        temperature: The softmax temperature, above 0.
        weights: The weights for ``average``, at least 0, in the order of ``teachers``, scaled to sum to 1; equal if None.
        tolerance: The largest weight of one teacher for ``agreement``, in (0, 1]; 0.6 in the authors' code.
        standardize: Whether to standardize each row of the student's and of every teacher's logits first (Sun et al. 2024),
            which makes the teachers equally sharp. Weights that depend on labels are computed before.

    Raises:
        ValueError: An argument is out of range or belongs to another weighting; a teacher has other classes.

    Examples:
        >>> members = {"0": torch.tensor([[3.0, 0.0]]), "1": torch.tensor([[0.0, 1.0]])}
        >>> EnsembleTarget()(Outputs(torch.tensor([[1.0, 0.0]])), Outputs(torch.zeros(1, 2), members))
        tensor(0.0004)
    """

    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self,
        teachers: str | list[str] = "*",
        weighting: Weighting = "average",
        temperature: float = 4.0,
        weights: list[float] | None = None,
        tolerance: float = 0.6,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        check_choice("weighting", weighting, WEIGHTINGS)
        if weights is not None:
            if weighting != "average":
                raise ValueError(f"weights do nothing with the weighting {weighting!r}; leave them out.")
            weights = check_numbers("weights", weights, least=0)
            normalised(weights, len(weights))
        self._references = layer_tuple(teachers, "teachers")
        self.weighting: Weighting = weighting
        self.temperature: float = check_temperature(temperature)
        self.weights = weights
        self.tolerance = check_number("tolerance", tolerance, above=0, most=1)
        self.standardize = check_flag("standardize", standardize)
        self.names: list[str] = []
        self._fixed: list[float] = []
        self.mixing: nn.Parameter | None
        self.register_parameter("mixing", None)
        self.needs_target = weighting in ("confidence", "learned")

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return self._references

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Find the teachers, as many as there are ``weights``, and make the learned weights."""
        self.names = expand_layers(self._references, teacher, "teacher")
        self._fixed = normalised(self.weights, len(self.names))
        if self.weighting == "learned" and self.mixing is None:
            self.mixing = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if not self.names:
            self.build(student, teacher)
        need_classes(student.logits)
        rows = at_least_float32(valid_rows(student.logits, student.logit_mask))
        teachers = [self._rows(name, student, teacher) for name in self.names]
        known = [z.detach() for z in teachers]  # a teacher that is trained follows the student, not the labels
        if self.standardize:
            rows, teachers = standardized(rows), [standardized(z) for z in teachers]
        if self.weighting == "average":
            return ensemble_target(rows, teachers, self._fixed, self.temperature)
        if self.weighting == "agreement":
            found = agreement_weights(rows, teachers, self.temperature, self.tolerance)
            return ensemble_target(rows, teachers, found, self.temperature)
        owner = f"the weighting {self.weighting!r}"
        target = need_labels(target, owner, "; use 'average' or 'agreement'")
        labels = labelled(student.logits, target, "multiclass", student.mask).labels
        if self.mixing is None:
            return ensemble_target(rows, teachers, list(confidence_weights(known, labels)), self.temperature)
        learned = self.mixing.softmax(0)
        soft = ensemble_target(rows, teachers, list(learned.detach()), self.temperature)
        return soft + hard_target(log_mixture(known, list(learned)), labels)

    def _rows(self, name: str, student: Outputs, teacher: Outputs) -> Tensor:
        logits = teacher.features[name]
        try:
            check_same_classes(student.logits, logits)
        except ValueError as error:
            raise ValueError(
                f"teacher layer {name!r}: {error} EnsembleTarget reads the logits of those members of a lit_distill.Ensemble "
                "that `teachers` names."
            ) from error
        return at_least_float32(valid_rows(logits, student.logit_mask))
