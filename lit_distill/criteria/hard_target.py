"""Hard targets: the task's own loss on labels."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.label_rows import labelled
from lit_distill.batch.labels import TASKS, Task, need_classes, unknown
from lit_distill.criteria.base import Criterion, at_least_float32
from lit_distill.criteria.ops.labelled import need_labels
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_number, check_numbers

Distance = Literal["l2", "l1", "smooth_l1"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
LABEL_TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel", "regression")


def hard_target(
    logits: Tensor,
    target: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Return the cross-entropy with labels.

    $$ -\frac{\sum_n s_n w_{y_n} \log \mathrm{softmax}(z_n)_{y_n}}{\sum_n s_n w_{y_n}} $$

    This is PyTorch's weighted mean, extended by sample weights ``s``. With class probabilities, the class weights ``w`` are
    inside the sum over classes, and the mean is weighted only by ``s``, as in PyTorch.

    Args:
        logits: ``[N, C]`` with two classes or more, in float32 or wider.
        target: Class indices ``[N]`` (rows of -100 are left out, and the value is 0 if none is left), or class probabilities
            ``[N, C]`` (after MixUp).
        label_smoothing: ``eps`` in [0, 1): the label's mass becomes ``1 - eps + eps / C``
            ([Szegedy et al. 2016](https://arxiv.org/abs/1512.00567), section 7).
        class_weights: ``[C]``, or None if all count alike.
        sample_weight: ``[N]``, at least 0, or None if all count alike.

    Raises:
        ValueError: There is only one class, or another number of class weights.

    Examples:
        >>> hard_target(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, -100]))
        tensor(0.1269)
    """
    need_classes(logits)
    class_weights = _class_weights(class_weights, logits)
    known = ~unknown(target) if target.is_floating_point() else target != IGNORED_LABEL
    if target.is_floating_point():
        target = target.to(logits.dtype).masked_fill(~known.unsqueeze(-1), 0)
    weighted = class_weights is not None or sample_weight is not None
    if not weighted and not target.is_floating_point():
        # Not PyTorch's mean, which is NaN for a batch without any label.
        total = F.cross_entropy(
            logits, target, label_smoothing=label_smoothing, ignore_index=IGNORED_LABEL, reduction="sum"
        )
        return total / known.sum().clamp(min=1)
    losses = F.cross_entropy(
        logits, target, class_weights, label_smoothing=label_smoothing, ignore_index=IGNORED_LABEL, reduction="none"
    )
    counts = known.to(losses.dtype) if sample_weight is None else known * sample_weight.to(losses.dtype)
    masses = counts
    if class_weights is not None and not target.is_floating_point():
        masses = counts * class_weights[target.clamp(min=0)]
    return _ratio((losses * counts).sum(), masses.sum())


def hard_target_binary(
    logits: Tensor,
    target: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Return the binary cross-entropy, averaged over all known labels of samples and classes.

    $$ -\mathrm{mean}_{n,c}\; w_c\, y_{nc} \log \sigma(z_{nc}) + (1 - y_{nc}) \log (1 - \sigma(z_{nc})) $$

    Args:
        logits: Any shape, in float32 or wider; ``[N, C]`` with weights.
        target: 0, 1, a probability or -100 (left out; the value is 0 if nothing is left), the same shape.
        label_smoothing: ``eps`` in [0, 1): targets become ``y (1 - eps) + eps / 2``.
        class_weights: Each class's weight of the positive term, ``[C]`` or ``[1]`` (``pos_weight`` in PyTorch).
        sample_weight: ``[N]``, at least 0: each label counts in the mean with the weight of its sample.

    Raises:
        ValueError: There is another number of class weights.

    Examples:
        >>> hard_target_binary(torch.tensor([[2.0, 0.0]]), torch.tensor([[1, -100]]))
        tensor(0.1269)
    """
    known = target != IGNORED_LABEL
    soft = target.to(logits.dtype).masked_fill(~known, 0) * (1 - label_smoothing) + label_smoothing / 2
    if class_weights is not None and len(class_weights) > 1:
        class_weights = _class_weights(class_weights, logits)
    positive = class_weights.to(logits) if class_weights is not None else None
    losses = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=positive, reduction="none")
    return _mean_of_known(losses, known, sample_weight)


def hard_target_regression(
    outputs: Tensor, target: Tensor, distance: Distance = "l2", sample_weight: Tensor | None = None
) -> Tensor:
    r"""Return the mean distance from labels that are numbers.

    $$ \mathrm{mean}_{n,c}\; d(z_{nc} - y_{nc}) $$

    Args:
        outputs: ``[N, C]``, in float32 or wider.
        target: Numbers, the same shape; -100 is left out, and the value is 0 if nothing is left.
        distance: ``l2`` (the square), ``l1`` (the absolute difference) or ``smooth_l1`` (the square below 1, halved).
        sample_weight: ``[N]``, at least 0: each number counts in the mean with the weight of its sample.

    Examples:
        >>> hard_target_regression(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [-100.0]]))
        tensor(4.)
    """
    known = target != IGNORED_LABEL
    wanted = torch.where(known, target.to(outputs.dtype), outputs.detach())
    losses = {"l2": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[distance](
        outputs, wanted, reduction="none"
    )
    return _mean_of_known(losses, known, sample_weight)


def _mean_of_known(losses: Tensor, known: Tensor, sample_weight: Tensor | None) -> Tensor:
    counts = known.to(losses.dtype)
    if sample_weight is not None:
        counts = counts * sample_weight.to(losses.dtype).reshape(-1, *[1] * (losses.dim() - 1))
    return _ratio((losses * counts).sum(), counts.sum())


def _ratio(total: Tensor, mass: Tensor) -> Tensor:
    """Return ``total / mass``; 0 if the mass is 0."""
    return total / torch.where(mass > 0, mass, torch.ones_like(mass))


def _class_weights(weights: Tensor | None, logits: Tensor) -> Tensor | None:
    if weights is None:
        return None
    if len(weights) != logits.shape[-1]:
        raise ValueError(f"{len(weights)} class weights for {logits.shape[-1]} classes; give each class one.")
    return weights.to(logits)


def label_loss(
    student: Outputs,
    logits: Tensor,
    target: Tensor,
    task: Task,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    distance: Distance = "l2",
) -> Tensor:
    """Return the loss on labels of any form that ``lit_distill.batch.labels`` reads, at the positions that count."""
    logits = at_least_float32(logits)
    if task == "multiclass":
        need_classes(logits)
    found = labelled(logits, target, task, student.mask, student.sample_weight)
    if task == "regression":
        return hard_target_regression(found.logits, found.labels, distance, found.weight)
    loss = hard_target if task == "multiclass" else hard_target_binary
    return loss(found.logits, found.labels, label_smoothing, class_weights, found.weight)


class HardTarget(Criterion):
    r"""The student's own loss on labels.

    $$ -\log p^s_y $$ for classes, see ``hard_target``, ``hard_target_binary`` and ``hard_target_regression``.

    Labels may have any usual form (``batch.labels.read_labels``): class indices of any integer type, one-hot
    and class probabilities; 0, 1 and probabilities for ``binary`` and ``multilabel``; numbers for ``regression``. A label of
    -100 is unknown and does not count, in every task. If the student's outputs carry sample weights, the mean is
    weighted by them: ``sum w·l / sum w``.

    Args:
        label_smoothing: In [0, 1).
        task: ``multiclass`` (cross-entropy), ``binary`` or ``multilabel`` (binary cross-entropy) or ``regression``
            (``distance``).
        class_weights: A number of at least 0 per class. For ``multiclass`` the weight of the class in PyTorch's weighted
            mean; for ``binary`` and ``multilabel`` the weight of the positive term (``pos_weight``), one number for all
            classes or one for each. The modules' defaults have none: give ``criteria={"hard": HardTarget(class_weights=…),
            …}``.
        distance: The distance for ``regression``: ``l2`` (mean squared error), ``l1`` or ``smooth_l1``.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> criterion = HardTarget(label_smoothing=0.1)  # it reads no teacher
        >>> criterion(Outputs(torch.tensor([[2.0, 0.0]])), Outputs.nothing(), torch.tensor([0]))
        tensor(0.2269)
    """

    needs_target = True
    needs_teacher = False

    def __init__(
        self,
        label_smoothing: float = 0.0,
        task: Task = "multiclass",
        class_weights: list[float] | None = None,
        distance: Distance = "l2",
    ) -> None:
        super().__init__()
        _check_arguments(label_smoothing, task, class_weights, distance)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, least=0, below=1)
        self.task: Task = task
        self.distance: Distance = distance
        self.class_weights: Tensor | None
        weights = torch.tensor(_checked_weights(class_weights)) if class_weights is not None else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        labels, settings = need_labels(target, "HardTarget"), (self.label_smoothing, self.class_weights, self.distance)
        return label_loss(student, student.logits, labels, self.task, *settings)


def _check_arguments(label_smoothing: float, task: Task, class_weights: list[float] | None, distance: Distance) -> None:
    if task in TASKS and task not in LABEL_TASKS:
        raise ValueError(
            f"HardTarget has no loss on labels for the task {task!r}; leave it out, or give it one of the tasks "
            f"{', '.join(map(repr, LABEL_TASKS))}."
        )
    check_choice("task", task, LABEL_TASKS)
    check_choice("distance", distance, DISTANCES)
    if task == "regression" and (label_smoothing or class_weights is not None):
        raise ValueError(
            "label_smoothing and class_weights are of classes, and the task is 'regression'; leave them out."
        )
    if task != "regression" and distance != "l2":
        raise ValueError(f"distance is of the task 'regression', and the task is {task!r}; leave it out.")


def _checked_weights(class_weights: list[float]) -> list[float]:
    weights = check_numbers("class_weights", class_weights, least=0)
    if not any(weights):
        raise ValueError(f"class_weights must have a number above 0 for some class, not {weights}.")
    return weights
