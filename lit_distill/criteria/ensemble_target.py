"""Soft targets from several teachers, weighted by sample, by batch or by what is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import labelled
from lit_distill.batch.labels import Task, need_classes, unknown
from lit_distill.criteria.base import Criterion, check_same_classes, counted, valid_rows
from lit_distill.criteria.hard_target import hard_target
from lit_distill.criteria.ops.mixture import favour_small, log_mixture, normalised
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
from lit_distill.utils.names import match_layers

Weighting = Literal["average", "confidence", "agreement", "learned"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


def ensemble_target(
    student: Tensor, teachers: Sequence[Tensor], weights: Sequence[float | Tensor], temperature: float = 4.0
) -> Tensor:
    """``T² · mean_n KL(sum_k w_k p_k || p_s)`` with ``p = softmax(z / T)``.

    Papers write ``sum_k w_k KL(p_k || p_s)``: that is larger by what the teachers differ among themselves, which no
    student changes, so its gradient is the same; this form is 0 where the student equals the mixture.

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teachers: Logits ``[N, C]`` of each teacher.
        weights: For each teacher a number, or a tensor that broadcasts to ``[N, 1]``; they sum to 1.
        temperature: ``T`` above 0.
    """
    need_classes(student)
    log_t = log_mixture(teachers, weights, temperature)
    log_s = F.log_softmax(student / temperature, -1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1).sum() / max(len(student), 1)


def confidence_weights(teachers: Sequence[Tensor], target: Tensor) -> Tensor:
    """``w_k = (1 - softmax_k(CE_k)) / (K - 1)``: a teacher counts where it knows the label.

    Zhang, Chen and Wang 2022, "Confidence-Aware Multi-Teacher Knowledge Distillation", the weights of its teachers'
    predictions. The authors' code divides by K once more, so that its loss is K times smaller.

    Args:
        teachers: Logits ``[N, C]`` of each of the K teachers.
        target: Class indices ``[N]`` (-100 where not known: equal weights), or class probabilities ``[N, C]``.

    Returns:
        ``[K, N, 1]``, summing to 1 over the teachers.
    """
    if target.is_floating_point():  # not known: equal weights
        target = target.masked_fill(unknown(target).unsqueeze(-1), 0).to(teachers[0].dtype)
    losses = [F.cross_entropy(z, target, reduction="none", ignore_index=IGNORED_LABEL) for z in teachers]
    return favour_small(torch.stack(losses).softmax(0)).unsqueeze(-1)


def agreement_weights(
    student: Tensor, teachers: Sequence[Tensor], temperature: float = 4.0, tolerance: float = 0.6
) -> list[float]:
    """The weights ``a_k`` in [0, C] that sum to 1 and make the mixed gradient ``|sum_k a_k g_k|`` smallest.

    Then a step towards the mixture is a step towards as many teachers as possible. ``g_k`` is the gradient of teacher
    k's soft target with respect to the student's logits of the batch, ``T (p_s - p_k) / N``. Du et al. 2020, "Agree to
    Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space" (AE-KD; there by an SVM solver).

    Args:
        student: Logits ``[N, C]``.
        teachers: Logits ``[N, C]`` of each of the K teachers.
        temperature: ``T`` above 0.
        tolerance: ``C`` in (0, 1]: no teacher's weight is above it. At 1 it may follow one teacher alone; at 1 / K and
            below, all weights are equal.

    Returns:
        K weights. They are computed on the CPU, and are each process's own where there are several.
    """
    with torch.no_grad():
        p_s = F.softmax(student.double() / temperature, -1)
        gradients = torch.stack([(p_s - F.softmax(z.double() / temperature, -1)).flatten() for z in teachers])
        gram: list[list[float]] = (gradients @ gradients.T).tolist()
    return smallest_norm(gram, max(tolerance, 1 / len(teachers)))


def smallest_norm(gram: Sequence[Sequence[float]], limit: float, precision: float = 1e-9) -> list[float]:
    """The ``a`` in ``[0, limit]^K`` with ``sum a = 1`` that makes ``a^T G a`` smallest.

    Weight is moved, as far as it helps, from the entry where the gradient ``G a`` is largest to the one where it is
    smallest (sequential minimal optimisation: Platt 1998), until the two differ by less than ``precision`` times the
    largest diagonal entry. A few dozen moves for a handful of teachers; at most 10,000.

    Args:
        gram: Inner products ``[K, K]`` of the gradients.
        limit: The largest entry allowed, at least 1 / K.
        precision: When to stop.
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
    """The student's distribution against a mixture of several teachers' distributions.

    The teacher is a ``lit_distill.Ensemble``, whose members are read as its layers ``0``, ``1``, …; with its
    ``average: none`` nothing is averaged twice. What the mixture's weights are:

    - ``average``: ``weights``, the same for all samples. With an ``Ensemble`` at the same temperature and a
      ``SoftTarget`` it is the same value.
    - ``confidence``: of each sample, by the teachers' cross-entropy with its label (``confidence_weights``). Needs labels.
    - ``agreement``: of each batch, by the gradients' agreement (``agreement_weights``).
    - ``learned``: ``softmax(v)`` with a parameter ``v`` of one number a teacher, trained by the mixture's cross-entropy
      with the labels (temperature 1), which is added to the value. The student's term does not reach ``v``: it would
      draw it to the teacher that the student already equals. Needs labels.

    The value carries T², and is a mean over the rows that count. Any module but ``LogitDistillation`` takes it, as it
    reads layers; ``CombinedDistillation`` and ``DistillationModule`` are right.

    Args:
        teachers: The members to mix: layer references or globs. ``*`` is all of an ``Ensemble``.
        weighting: ``average``, ``confidence``, ``agreement`` or ``learned``.
        temperature: Above 0.
        weights: Of ``average``: finite and at least 0, one a teacher in the order of ``teachers``; made to sum to 1.
            Equal where None.
        tolerance: Of ``agreement``, in (0, 1]: the largest weight of one teacher. 0.6 in the authors' code.
        standardize: Whether to standardize each row of the student's and of every teacher's logits first (Sun et al. 2024),
            which makes the teachers equally sharp. What the labels decide (``confidence``, ``learned``) is decided before.

    Raises:
        ValueError: An argument is out of range or belongs to another weighting; a teacher has other classes.
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
        self.temperature = check_temperature(temperature)
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
        """Find the teachers, and make the learned weights.

        Raises:
            ValueError: There is no such layer, or the number of ``weights`` is not that of the teachers.
        """
        captured = [name for name in teacher.features if ":" not in name and "#" not in name]
        self.names = []
        for reference in self._references:
            found = reference in teacher.features
            self.names += [reference] if found else match_layers(reference, captured, "the teacher's outputs")
        self._fixed = normalised(self.weights, len(self.names))
        if self.weighting == "learned" and self.mixing is None:
            self.mixing = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if not self.names:
            self.build(student, teacher)
        need_classes(student.logits)
        rows = valid_rows(counted(student.logits, student.mask))
        teachers = [self._rows(name, student, teacher) for name in self.names]
        known = [z.detach() for z in teachers]  # a teacher that follows is to follow the student, not the labels
        if self.standardize:
            rows, teachers = standardized(rows), [standardized(z) for z in teachers]
        if self.weighting == "average":
            return ensemble_target(rows, teachers, self._fixed, self.temperature)
        if self.weighting == "agreement":
            found = agreement_weights(rows, teachers, self.temperature, self.tolerance)
            return ensemble_target(rows, teachers, found, self.temperature)
        labels = _row_labels(student, target)
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
                f"teacher layer {name!r}: {error} EnsembleTarget reads logits: of the members of a lit_distill.Ensemble "
                "those named by `teachers`."
            ) from error
        return valid_rows(counted(logits, student.mask))


def _row_labels(student: Outputs, target: Tensor | None) -> Tensor:
    """The labels of the rows that count: class indices ``[N]`` or probabilities ``[N, C]``."""
    if target is None:
        raise ValueError("this weighting needs labels, and the batch has none; use 'average' or 'agreement'.")
    return labelled(student.logits, target, "multiclass", student.mask).labels
