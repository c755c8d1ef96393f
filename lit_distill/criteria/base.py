"""What a criterion is, and the rules that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_distill.batch.labels import CLASS_TASKS, TASKS, need_classes
from lit_distill.batch.positions import position_mask
from lit_distill.criteria.about import About
from lit_distill.criteria.projectors import NORMS, Norm, Projector, SizedProjector
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, layer_tuple
from lit_distill.utils.names import match_layers


class Criterion(nn.Module, ABC):
    """Compares what the student and the teacher put out for the same batch.

    To add a method, subclass this in one file, beside a pure function that is the formula. The value is a
    scalar, a mean over the batch, never multiplied by its own weight.

    Attributes:
        needs_target: The criterion reads labels.
        needs_teacher: The criterion reads the teacher's outputs.
        compares_logits: The criterion compares the student's logits with the teacher's.
        minimum_at_teacher: The value is smallest where the student puts out what the teacher does. ``lit-distill doctor``
            holds a criterion without labels to it; False where the method means another minimum.
        about: Where the method comes from; None for one of the user's own.
    """

    about: ClassVar[About | None] = None
    needs_target: bool = False
    needs_teacher: bool = True
    compares_logits: bool = False
    minimum_at_teacher: bool = True

    @property
    def student_layers(self) -> tuple[str, ...]:
        """References of the student's layers that the criterion reads."""
        return ()

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """References of the teacher's layers that the criterion reads."""
        return ()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the criterion's own layers from one example of both networks' outputs.

        Called once before the optimizer is made, or from the shapes that a checkpoint holds.
        """

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        """The criterion's value: a scalar, mean over the batch."""

    def __call__(self, student: Outputs, teacher: Outputs, target: Any = None) -> Any:
        """Call ``forward`` and its hooks, outside autocast: every value is computed in float32 or wider."""
        with torch.autocast(student.device.type, enabled=False):
            return super().__call__(student, teacher, target)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Criterion:
        """Follow to another device and to a wider type; criteria compute in float32 where the networks are narrower."""
        super()._apply(never_narrow(fn), recurse)  # type: ignore[no-untyped-call]
        return self


class FeatureCriterion(Criterion):
    """A criterion over pairs of a student's and a teacher's layers.

    Args:
        student_layer: A reference, a glob, or a list of them. Several layers pair with as many of the
            teacher's, in order.
        teacher_layer: The teacher's side of the pairs.
        project: Whether to bring the student's feature to the teacher's shape by a ``Projector``, made
            when the shapes are first seen.
        projector_norm: The projectors' normalisation.
    """

    def __init__(
        self,
        student_layer: str | list[str],
        teacher_layer: str | list[str],
        project: bool = False,
        projector_norm: Norm = "none",
    ) -> None:
        super().__init__()
        self._student_layers = layer_tuple(student_layer, "student_layer")
        self._teacher_layers = layer_tuple(teacher_layer, "teacher_layer")
        check_choice("projector_norm", projector_norm, NORMS)
        self.project = project
        self.projector_norm: Norm = projector_norm
        self.projectors = nn.ModuleList()
        self.pairs: list[tuple[str, str]] = []

    def __call__(self, student: Outputs, teacher: Outputs, target: Any = None) -> Any:
        """As ``Criterion``; 0, with a gradient of 0, where the batch has a mask and no position in it counts."""
        value = super().__call__(student, teacher, target)
        return value if student.mask is None else value * student.mask.any()

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._student_layers

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return self._teacher_layers

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Pair the layers and size the projectors.

        Raises:
            ValueError: The two sides name different numbers of layers, or a pair's shapes cannot meet.
        """
        names_s = expand_layers(self._student_layers, student, "student")
        names_t = expand_layers(self._teacher_layers, teacher, "teacher")
        if len(names_s) != len(names_t):
            raise ValueError(
                f"{len(names_s)} student layers ({', '.join(names_s)}) cannot pair with "
                f"{len(names_t)} teacher layers ({', '.join(names_t)})."
            )
        pairs = list(zip(names_s, names_t, strict=True))
        if not self.pairs and self.project:
            self.projectors = nn.ModuleList(self._make_projector(s, t, student, teacher) for s, t in pairs)
        self.pairs = pairs

    def _make_projector(self, name_s: str, name_t: str, student: Outputs, teacher: Outputs) -> nn.Module:
        try:
            return self.make_projector(student.features[name_s].shape, teacher.features[name_t].shape)
        except ValueError as error:
            raise ValueError(f"{name_s} -> {name_t}: {error}") from error

    def make_projector(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """A projector between two shapes, batch included; a subclass may make another."""
        return Projector(student, teacher, self.projector_norm)

    def pair_features(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Each pair's features in float32 or wider, the student's projected where projectors are on."""
        if not self.pairs:
            self.build(student, teacher)
        found = []
        for index, (name_s, name_t) in enumerate(self.pairs):
            feature, taught = student.features[name_s], teacher.features[name_t]
            if self.project:
                feature = self._project(index, at_least_float32(feature), taught)  # widened first: it pools too
            pair = at_least_float32(feature), at_least_float32(taught)
            found.append(_without_padding(*pair, student.mask) if student.mask is not None else pair)
        return found

    def _project(self, index: int, feature: Tensor, teacher: Tensor) -> Tensor:
        """A pair's student feature at the teacher's shape for this batch: texts and images come in many sizes."""
        projector = self.projectors[index]
        if isinstance(projector, SizedProjector):
            return in_own_type(projector, feature, teacher.shape)
        return in_own_type(projector, feature)


def _without_padding(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens with zeros where they do not count, so that no sum over positions has a part of them."""
    own = position_mask(mask, student) if student.dim() == 3 else None
    if own is None or teacher.dim() != 3 or teacher.shape[:2] != own.shape:
        return student, teacher
    padding = ~own.unsqueeze(-1)
    return student.masked_fill(padding, 0), teacher.masked_fill(padding, 0)


def expand_layers(references: Sequence[str], outputs: Outputs, owner: str) -> list[str]:
    """The captured features that the references name, reference by reference."""
    names: list[str] = []
    for reference in references:
        if reference in outputs.features:
            names.append(reference)
            continue
        _, mark, rest = reference.partition(":" if ":" in reference else "#")
        captured = [name for name in outputs.features if name.endswith(mark + rest) and (mark or _is_plain(name))]
        paths = [name.removesuffix(mark + rest) for name in captured]
        names.extend(match_layers(reference, paths, f"the {owner}'s outputs"))
    return names


def _is_plain(name: str) -> bool:
    return ":" not in name and "#" not in name


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half precision to float32; leave float32 and float64 alone."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def in_own_type(layer: nn.Module, feature: Tensor, *rest: Any) -> Tensor:
    """A layer's output for a feature of another floating-point type than its weights, in the feature's type."""
    weights = next(layer.parameters(), feature)
    found: Tensor = layer(feature.to(weights.dtype), *rest)
    return found.to(feature.dtype)


def never_narrow(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What moves a tensor as ``fn`` does, but leaves it in float32 or wider where that would make half precision of it."""

    def widely(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        narrowed = moved.dtype in (torch.float16, torch.bfloat16)
        return tensor.to(device=moved.device, dtype=at_least_float32(tensor).dtype) if narrowed else moved

    return widely


def check_class_task(owner: str, task: str) -> None:
    """Refuse a task without classes, for what compares classes.

    Raises:
        ValueError: The task is another; the message says what to use.
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


def valid_rows(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Lay logits out as rows of classes, ``[N, C]``, keeping the positions that count.

    Args:
        logits: ``[B, C]``, ``[B, T, C]``, ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        mask: True at the positions that count: ``[B]``, ``[B, T]``, ``[B, H, W]`` or ``[B, D, H, W]``.

    Raises:
        ValueError: Another number of dimensions, or a mask of another shape.
    """
    if logits.dim() not in (2, 3, 4, 5):
        raise ValueError(
            f"logits must be [B, C], [B, T, C], [B, C, H, W] or [B, C, D, H, W], not {list(logits.shape)}."
        )
    classes_last = logits.movedim(1, -1) if logits.dim() > 3 else logits
    if mask is None:
        return classes_last.flatten(0, -2)
    if mask.shape != classes_last.shape[:-1]:
        raise ValueError(f"a mask of shape {list(mask.shape)} does not fit logits {list(logits.shape)}.")
    return classes_last[mask.bool()]


def counted(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits at the positions that count, in float32 or wider; all of them, in their shape, without a mask.

    A mask beside ``[B]`` or ``[B, C]`` logits belongs to the inputs' tokens and is not applied.
    """
    return at_least_float32(logits if mask is None or logits.dim() < 3 else valid_rows(logits, mask))


def paired_rows(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Both networks' logits as rows ``[N, C]``, those that count, in float32 or wider.

    Raises:
        ValueError: The shapes differ; where the classes do, that is said.
    """
    check_same_classes(student.logits, teacher.logits)
    if student.logits.dim() == 1:
        need_classes(student.logits)
    return valid_rows(counted(student.logits, student.mask)), valid_rows(counted(teacher.logits, student.mask))


def check_same_classes(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that cannot be compared class by class.

    Raises:
        ValueError: The two shapes differ.
    """
    if student.shape == teacher.shape:
        return
    class_dim = 1 if student.dim() > 3 else -1
    if student.dim() == teacher.dim() and student.shape[class_dim] != teacher.shape[class_dim]:
        raise ValueError(
            f"the student has {student.shape[class_dim]} classes and the teacher {teacher.shape[class_dim]}; "
            "give both the same number of classes."
        )
    raise ValueError(f"student logits {list(student.shape)} do not match teacher logits {list(teacher.shape)}.")
