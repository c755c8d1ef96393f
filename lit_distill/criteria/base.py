"""The contract of a criterion, and what all criteria share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_distill.batch.labels import CLASS_TASKS, TASKS, Task
from lit_distill.batch.positions import position_mask
from lit_distill.criteria.layers import AUTO, PAIRINGS, AutoStages, Pairing, checked_layers, expand_layers, pair_layers
from lit_distill.criteria.projectors import NORMS, Norm, Projector, SizedProjector
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice


@dataclass(frozen=True)
class Citation:
    """The origin of a method.

    Attributes:
        method: Its name in the literature.
        paper: Authors, year, title and venue.
        weight: The weight that the paper or its code uses, converted to this library's reductions.
        url: Where the paper is.
    """

    method: str
    paper: str
    weight: float
    url: str


class Criterion(nn.Module, ABC):
    r"""Compares the outputs of the student and the teacher for the same batch.

    To add a method, subclass this in one file, next to a pure function that is the formula. The value is a
    scalar, a mean over the batch, never multiplied by its own weight.

    Attributes:
        citation: The origin of the method; None for a method of your own.
        needs_target: The criterion reads labels. Default: False.
        takes_tasks: The criterion takes the labels of several tasks, in a mapping by task. Default: False.
        needs_teacher: The criterion reads the teacher's outputs. Default: True.
        auto_ratio: Norm of its gradient, relative to the label loss's, that a weight found in training aims at. If None, 4 for
            criteria that compare logits, else 1. Default: None.
        compares_logits: The criterion compares the student's logits with the teacher's. Default: False.
        minimum_at_teacher: The value is smallest if the student's outputs equal the teacher's, which ``lit-distill doctor``
            checks for criteria without labels. Default: True.
        task: The only task that the criterion is for; any if None. Default: None.
        auto_stages: What ``auto`` names: ``all`` stages, the ``last`` or, for early ``exits``, all but the last; queries, keys
            and values of the last ``attention``; the last stage with ``each_teacher``'s; or ``regions``. Default: ``all``.
        temperature: The present temperature, which is logged and can be scheduled; None for a criterion without one.
            Default: None.

    Examples:
        >>> class AbsoluteDifference(Criterion):
        ...     compares_logits = True
        ...     def forward(self, student, teacher, target):
        ...         return (student.logits - teacher.logits).abs().mean()
        >>> AbsoluteDifference()(Outputs(torch.zeros(2, 3)), Outputs(torch.full((2, 3), 0.5)))
        tensor(0.5000)
    """

    citation: ClassVar[Citation | None] = None
    needs_target: bool = False
    takes_tasks: bool = False
    needs_teacher: bool = True
    compares_logits: bool = False
    minimum_at_teacher: bool = True
    auto_ratio: float | None = None
    task: Task | None = None
    auto_stages: AutoStages = "all"
    _found_layers: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    temperature: float | None

    def __init__(self) -> None:
        super().__init__()
        # On the instance: an attribute of the class would keep a subclass from registering a parameter of that name.
        if not hasattr(type(self), "temperature"):
            vars(self).setdefault("temperature", None)

    @property
    def student_layers(self) -> tuple[str, ...]:
        """References of the student's layers that the criterion reads."""
        return ()

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """References of the teacher's layers that the criterion reads."""
        return ()

    @property
    def found_layers(self) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """The student's and the teacher's layers that were found for ``auto``; None if none were."""
        return self._found_layers

    def set_found_layers(self, student: Sequence[str], teacher: Sequence[str]) -> None:
        """Read these layers in place of ``auto``.

        Args:
            student: The student's layers.
            teacher: The teacher's layers.
        """
        self._found_layers = tuple(student), tuple(teacher)

    @property
    def needs_layers(self) -> bool:
        """True if layers are ``auto``, and not found yet."""
        return AUTO in self.student_layers or AUTO in self.teacher_layers

    @property
    def wrapped(self) -> Criterion | None:
        """The criterion that this one holds as ``criterion`` and delegates to, or None."""
        inner = self._modules.get("criterion")
        return inner if isinstance(inner, Criterion) else None

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the criterion's own layers from one example of both networks' outputs.

        Called once before the optimizer is made, or with the shapes that a checkpoint holds.
        """

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        """Return the criterion's value: a scalar, the mean over the batch."""

    def __call__(self, student: Outputs, teacher: Outputs, target: Any = None) -> Any:
        """Call ``forward`` and its hooks outside autocast, so that every value is computed in float32 or wider."""
        with torch.autocast(student.device.type, enabled=False):
            return super().__call__(student, teacher, target)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Criterion:
        """Move to another device or a wider type, but stay in float32 if the networks are narrowed."""
        super()._apply(never_narrow(fn), recurse)  # type: ignore[no-untyped-call]
        return self


class FeatureCriterion(Criterion):
    """A criterion over pairs of a student's and a teacher's layers.

    Args:
        student_layer: A layer reference, a glob, or a list of them; or ``auto``, the ends of the network's stages.
        teacher_layer: The teacher's side of the pairs.
        project: Whether to bring the student's feature to the teacher's shape by a ``Projector``, made
            when the shapes are first seen.
        projector_norm: The projectors' normalisation.
        pair: ``order``: several layers pair with as many of the teacher's. ``depth``: each layer of the shorter list pairs
            with that of the longer one at the same share of the list.

    Attributes:
        fewest_pairs: The number of pairs that the formula needs. Default: 1.
        makes_maps: Tokens of images are read as maps; those of a sequence are refused. Default: False.
        makes_maps_if_unequal: So are tokens that differ in number. Default: False.
    """

    fewest_pairs: int = 1
    makes_maps: bool = False
    makes_maps_if_unequal: bool = False

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        project: bool = False,
        projector_norm: Norm = "none",
        pair: Pairing = "order",
    ) -> None:
        super().__init__()
        self._student_layers = checked_layers(student_layer, "student_layer")
        self._teacher_layers = checked_layers(teacher_layer, "teacher_layer")
        check_choice("pair", pair, PAIRINGS)
        self._pairing: Pairing = pair
        check_choice("projector_norm", projector_norm, NORMS)
        self.project = project
        self.projector_norm: Norm = projector_norm
        self.projectors = nn.ModuleList()
        self.pairs: list[tuple[str, str]] = []

    def __call__(self, student: Outputs, teacher: Outputs, target: Any = None) -> Any:
        """Call ``forward`` outside autocast; return 0, with a gradient of 0, if no position of the mask counts."""
        value = super().__call__(student, teacher, target)
        return value if student.mask is None else value * student.mask.any()

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._student_layers if self.found_layers is None else self.found_layers[0]

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return self._teacher_layers if self.found_layers is None else self.found_layers[1]

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Pair the layers and size the projectors; refuse pairs that cannot meet."""
        pairs = self.pair(student, teacher)
        if not self.pairs and self.project:
            self.projectors = nn.ModuleList(self._make_projector(s, t, student, teacher) for s, t in pairs)
        self.pairs = pairs

    def pair(self, student: Outputs, teacher: Outputs) -> list[tuple[str, str]]:
        """Return the pairs of layers in an example of both networks' outputs.

        Args:
            student: The student's outputs.
            teacher: The teacher's outputs.

        Raises:
            ValueError: A layer is unknown, or the two sides name different numbers of layers that pair in order.
        """
        names_s = expand_layers(self.student_layers, student, "student")
        names_t = expand_layers(self.teacher_layers, teacher, "teacher")
        return pair_layers(names_s, names_t, self._pairing if self.found_layers is None else "order")

    def _make_projector(self, name_s: str, name_t: str, student: Outputs, teacher: Outputs) -> nn.Module:
        try:
            pair = self.arrange(student.features[name_s], teacher.features[name_t], student.mask)
            return self.make_projector(*(feature.shape for feature in pair))
        except ValueError as error:
            raise ValueError(f"{name_s} -> {name_t}: {error}") from error

    def arrange(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a pair's features, before they are projected, in the form that the formula takes."""
        return student, teacher

    def make_projector(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """Return a projector between two shapes, batch included; a subclass may return another kind."""
        return Projector(student, teacher, self.projector_norm)

    def pair_features(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Return the features of each pair in float32 or wider, the student's projected if ``project`` is on."""
        if not self.pairs:
            self.build(student, teacher)
        found = []
        for index, (name_s, name_t) in enumerate(self.pairs):
            feature, taught = self.arrange(student.features[name_s], teacher.features[name_t], student.mask)
            if self.project:
                feature = self._project(index, at_least_float32(feature), taught)  # widened first: it pools too
            pair = at_least_float32(feature), at_least_float32(taught)
            found.append(_without_padding(*pair, student.mask) if student.mask is not None else pair)
        return found

    def _project(self, index: int, feature: Tensor, teacher: Tensor) -> Tensor:
        """Project a student feature to the shape of the teacher's in this batch: texts and images vary in size."""
        projector = self.projectors[index]
        if isinstance(projector, SizedProjector):
            return in_own_type(projector, feature, teacher.shape)
        return in_own_type(projector, feature)


def _without_padding(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Set the tokens that do not count to zero, so that they add nothing to sums over positions."""
    own = position_mask(mask, student) if student.dim() == 3 else None
    if own is None or teacher.dim() != 3 or teacher.shape[:2] != own.shape:
        return student, teacher
    padding = ~own.unsqueeze(-1)
    return student.masked_fill(padding, 0), teacher.masked_fill(padding, 0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half precision to float32; leave float32 and float64 unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def in_own_type(layer: nn.Module, feature: Tensor, *rest: Any) -> Tensor:
    """Call a layer whose weights may be of another floating-point type; the output is of the feature's type."""
    weights = next(layer.parameters(), feature)
    found: Tensor = layer(feature.to(weights.dtype), *rest)
    return found.to(feature.dtype)


def never_narrow(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a function that moves tensors so that it never narrows one below float32."""

    def widely(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        narrowed = moved.dtype in (torch.float16, torch.bfloat16)
        return tensor.to(device=moved.device, dtype=at_least_float32(tensor).dtype) if narrowed else moved

    return widely


def check_class_task(owner: str, task: str) -> None:
    """Refuse a task without classes for a criterion that compares classes.

    Raises:
        ValueError: The task has no classes; the message says what to use instead.
    """
    try:
        check_choice("task", task, CLASS_TASKS)
    except ValueError as error:
        if task not in TASKS:
            raise
        raise ValueError(
            f"{error} {owner} is for outputs that are scores of classes; compare the outputs themselves by LogitMSE, and "
            "learn labels that are numbers by HardTarget(task='regression')."
        ) from None
