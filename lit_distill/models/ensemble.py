"""Several networks as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.labels import Task, need_classes
from lit_distill.batch.untouched import Guard, called_in_turn
from lit_distill.criteria.base import at_least_float32, check_class_task
from lit_distill.criteria.ops.divergence import favour_small, log_mixture, normalised
from lit_distill.outputs import OutputKey, read_logits
from lit_distill.utils.arguments import check_choice, check_entry, check_network, check_temperature, wrong_type

Average = Literal["probabilities", "logits", "confidence", "none"]
AVERAGES: tuple[Average, ...] = get_args(Average)


class Ensemble(nn.Module):
    """A network made of networks: all see the same inputs, and their logits are combined.

    It is a teacher like any other (frozen, recorded, in int8, compiled). Its members are its children ``0``, ``1``, …:
    the layer reference ``1.layer3`` reads a layer of the second one, and ``1`` its output (of a mapping or a tuple
    the first tensor: the logits in torchvision's segmentation models, and in Hugging Face's if no labels are passed).

    ``probabilities`` gives ``z = T log sum_k w_k softmax(z_k / T)``: at the temperature T, ``softmax(z / T)`` is exactly
    the mean of the members' distributions (Hinton et al. 2015, section 1: an ensemble's arithmetic mean). At other
    temperatures of the criterion it is close to it.

    ``logits`` is the weighted mean of logits, which is the geometric mean of the distributions.

    ``confidence`` weighs each sample's members by their certainty, without labels:
    ``w_k = (1 - H_k / sum_j H_j) / (K - 1)`` with the entropies H at temperature 1, and mixes like ``probabilities``
    (EBKD: Kwon et al. 2020, "Adaptive Knowledge Distillation Based on Entropy", as run by Zhang et al. 2022, CA-MKD;
    their code divides by K instead of K - 1, a constant factor).

    ``none`` combines nothing, for members of different classes: the output is the tuple of logits, whose first stands
    for the teacher in figures of one (``val/accuracy/teacher``).

    Args:
        models: The members, at least one.
        weights: The members' weights, finite and at least 0; scaled to the sum 1. If None, equal. Not with ``confidence``
            and ``none``.
        average: ``probabilities``, ``logits``, ``confidence`` or ``none``.
        temperature: T above 0; use that of the criterion that compares the logits.
        output_key: The entry of the members' mapping outputs that holds the logits; if None, found by its usual names.
        task: ``multiclass`` (softmax over classes), or ``binary`` or ``multilabel`` (one sigmoid per class).

    Raises:
        ValueError: An argument is wrong; or, when called, the members' logits differ in shape.

    Example:
        >>> ensemble = Ensemble([nn.Identity(), nn.Softplus()], average="logits")
        >>> ensemble(torch.tensor([[2.0, 30.0]]))
        tensor([[ 2.0635, 30.0000]])
    """

    def __init__(
        self,
        models: list[nn.Module],
        weights: list[float] | None = None,
        average: Average = "probabilities",
        temperature: float = 1.0,
        output_key: OutputKey | None = None,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        check_choice("average", average, AVERAGES)
        check_class_task("Ensemble", task)
        check_members("models", models)
        _refuse_repeated(models)
        if weights is not None and average in ("confidence", "none"):
            raise ValueError(f"weights do nothing with average {average!r}; leave one of the two out.")
        for index, model in enumerate(models):
            self.add_module(str(index), model)
        self.weights = normalised(weights, len(models))
        self.average: Average = average
        self.temperature = check_temperature(temperature)
        check_entry("output_key", output_key)
        self.output_key = output_key
        self.task: Task = task
        self._guard = Guard()

    def __len__(self) -> int:
        return len(self.weights)

    def forward(self, first: Any = None, *more: Any, **named: Any) -> Any:
        """Return the combined logits for the members' inputs; the tuple of their logits if ``average`` is ``none``."""
        # torch.fx puts one symbol in each star's place; it traces networks of one input, where both are empty.
        rest = more if isinstance(more, tuple) else ()
        keywords = named if isinstance(named, dict) else {}
        positional = (first, *rest) if first is not None or rest else ()
        raw = called_in_turn(self.children(), self._guard, "member", positional, keywords)
        return combine(raw, self.weights, self.average, self.temperature, self.output_key, self.task)

    def extra_repr(self) -> str:
        weights = ", ".join(f"{weight:.4g}" for weight in self.weights)
        return f"weights=[{weights}], average={self.average!r}, temperature={self.temperature:g}, task={self.task!r}"


class SeveralLogits(tuple[Tensor, ...]):
    """The members' logits; the first stand for all if one network's are needed."""

    @property
    def logits(self) -> Tensor:
        """The first member's logits."""
        return self[0]


def combine(
    raw: Sequence[Any],
    weights: Sequence[float],
    average: Average,
    temperature: float = 1.0,
    output_key: OutputKey | None = None,
    task: Task = "multiclass",
) -> Any:
    """Combine the members' outputs to logits of their shape, float32 or wider; with ``none`` to the tuple of their logits.

    Raises:
        ValueError: The members' logits differ in shape.
    """
    logits = [read_logits(output, output_key, f"ensemble's model {index}") for index, output in enumerate(raw)]
    if average == "none":
        return SeveralLogits(logits)
    _check_shapes(logits)
    wide = [at_least_float32(z) for z in logits]
    if average == "confidence":
        return _confident(wide, temperature, task)
    if max(weights) == 1:
        return logits[weights.index(1.0)]
    if average == "logits":
        return torch.stack([weight * z for weight, z in zip(weights, wide, strict=True)]).sum(0)
    return _mixed(wide, weights, temperature, task)


torch.fx.wrap("combine")  # one node in a traced graph: what it does depends on what the members return


def _mixed(logits: Sequence[Tensor], weights: Sequence[float | Tensor], temperature: float, task: Task) -> Tensor:
    if task == "multiclass":
        _need_classes(logits[0])
        return temperature * log_mixture(logits, weights, temperature, _class_dim(logits[0]))
    weights = [weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight for weight in weights]
    pair = log_mixture([_as_pair(z) for z in logits], weights, temperature)
    return temperature * (pair[..., 0] - pair[..., 1])


def _confident(logits: Sequence[Tensor], temperature: float, task: Task) -> Tensor:
    multiclass = task == "multiclass"
    if multiclass:
        _need_classes(logits[0])
    dim = _class_dim(logits[0]) if multiclass else -1
    log_p = F.log_softmax(torch.stack([z if multiclass else _as_pair(z) for z in logits]), dim)
    doubt = -(log_p.exp() * log_p).sum(dim, keepdim=multiclass) + 1e-12  # members that are all certain share it equally
    weights = favour_small(doubt / doubt.sum(0)).clamp_min(1e-30)
    return _mixed(logits, list(weights), temperature, task)


def _as_pair(logits: Tensor) -> Tensor:
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def _class_dim(logits: Tensor) -> int:
    """Return the classes' dimension, the same with and without a leading dimension of members."""
    return 1 - logits.dim() if logits.dim() >= 4 else -1


def _need_classes(logits: Tensor) -> None:
    try:
        need_classes(logits)
    except ValueError as error:
        raise ValueError(
            f"{error} In an Ensemble, set task='binary', or average='logits' for the mean of the outputs."
        ) from error


def check_members(name: str, models: Sequence[nn.Module]) -> None:
    """Refuse what is no list of networks."""
    if not isinstance(models, (Sequence, nn.ModuleList)) or isinstance(models, str):
        raise wrong_type(name, models, "give a list of networks.")
    for index, model in enumerate(models):
        check_network(f"{name}[{index}]", model)


def _refuse_repeated(models: Sequence[nn.Module]) -> None:
    if not models:
        raise ValueError("an ensemble of no models; give at least one.")
    for index, model in enumerate(models):
        first = next(position for position, other in enumerate(models) if other is model)
        if first != index:
            raise ValueError(
                f"models {first} and {index} of the ensemble are one and the same network; name it once and give it a "
                "larger weight."
            )


def _check_shapes(logits: Sequence[Tensor]) -> None:
    first = logits[0]
    for index, z in enumerate(logits):
        if z.shape == first.shape:
            continue
        dim = _class_dim(first)
        ragged = z.dim() == first.dim() >= 2 and z.shape[dim] != first.shape[dim]
        what = (
            f"model 0 has {first.shape[dim]} classes and model {index} {z.shape[dim]}"
            if ragged
            else f"model 0 gives logits {list(first.shape)} and model {index} {list(z.shape)}"
        )
        raise ValueError(
            f"the ensemble cannot be averaged: {what}. Give it models of the same classes, or set average to 'none' and "
            f"let criteria read each model by its layer ('0', '{index}')."
        )
