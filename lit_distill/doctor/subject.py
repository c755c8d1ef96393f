"""One criterion, with outputs to try it on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_distill.batch.labels import class_dim
from lit_distill.criteria import Criterion, FeatureCriterion, OnHead, SoftTarget
from lit_distill.criteria.layers import expand_layers
from lit_distill.doctor.sample import Sample, draw, fewer, smaller
from lit_distill.outputs import Outputs


class Subject:
    """A criterion under examination; it is copied for each value, so that no state is carried over.

    Args:
        name: Its name in the module.
        criterion: The criterion with its layers sized.
        like: Outputs and labels as in training, in float64 or float32.
        fresh: The criterion before its layers were sized; None if it is not to be sized anew.
        halves: The half-precision types that training uses.
    """

    def __init__(
        self, name: str, criterion: Criterion, like: Sample, fresh: Criterion | None, halves: frozenset[torch.dtype]
    ) -> None:
        self.name = name
        self.like = like
        self.fresh = fresh
        self.halves = halves
        self.criterion = copy.deepcopy(criterion).cpu()
        self._wide = copy.deepcopy(self.criterion).to(like.student.logits.dtype)

    @property
    def where(self) -> str:
        """Its name in a finding."""
        return f"criterion {self.name!r} ({type(self.criterion).__name__})"

    @property
    def reads_layers(self) -> bool:
        """True if it reads anything but logits."""
        return bool(self.criterion.student_layers or self.criterion.teacher_layers)

    @property
    def learns(self) -> bool:
        """True if it has trainable parameters."""
        return any(parameter.requires_grad for parameter in self.criterion.parameters())

    def draw(self, seed: int, scale: float = 3.0, right: float = 0.5) -> Sample:
        """Return a random sample; see ``sample.draw``."""
        return draw(self.like, seed, scale, right)

    def raw(self, sample: Sample, seed: int = 0, training: bool = False) -> Tensor:
        """Return what the criterion returns, with its random numbers started from ``seed``."""
        own = sample.student.logits.dtype == self.like.student.logits.dtype
        base = self._wide if own else self.criterion
        # Parameters are only read and need no copy; buffers may be written to.
        twin = copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})
        with isolate_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            value: Tensor = twin.train(training)(sample.student, sample.teacher, sample.target)
        return value

    def value(self, sample: Sample, seed: int = 0) -> float:
        """Return the value in evaluation mode, as the weighted sum would take it."""
        return float(self.raw(sample, seed).detach().sum())

    def slopes(
        self, sample: Sample, training: bool = False, wanted: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Return the value, and its gradient for each of the student's tensors by name, or None if there is none."""
        inputs = {name: value for name, value in sample.inputs().items() if wanted is None or name in wanted}
        leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
        value = self.raw(sample.with_inputs(leaves), training=training).sum()
        if not value.requires_grad:
            return value, dict.fromkeys(leaves)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return value.detach(), dict(zip(leaves, found, strict=True))

    def is_random(self) -> bool:
        """Return True if it gives different values for the same outputs."""
        sample = self.draw(0)
        return not close(self.value(sample, seed=0), self.value(sample, seed=1), 1e-6)

    def set(self, setting: str, value: float) -> Subject:
        """Return a copy with a setting changed."""
        other = copy.copy(self)
        vars(other).pop("alike", None)
        other.criterion, other._wide = copy.deepcopy(self.criterion), copy.deepcopy(self._wide)
        for criterion in (other.criterion, other._wide):
            setattr(criterion, setting, value)
        return other

    def draw_opposite(self, scale: float) -> Sample:
        """Return random logits, and their opposite for the teacher."""
        sample = self.draw(0, scale)
        return replace(sample, teacher=replace(sample.teacher, logits=-sample.student.logits))

    def compares_classes(self, sample: Sample) -> bool:
        """Return True if it compares both networks' logits, of two classes or more, and reads nothing else."""
        student, teacher = sample.student.logits, sample.teacher.logits
        multiclass = student.dim() > 1 and student.shape[class_dim(student)] > 1
        reads = self.criterion.needs_teacher and not self.reads_layers
        return reads and multiclass and student.shape == teacher.shape and not self.is_random()

    def moved_by(self, sample: Sample) -> list[str]:
        """Return the names of the student's tensors that the value depends on."""
        value, other = self.value(sample), self.draw(99).inputs()
        moved = {name: self.value(sample.with_inputs({name: other[name]})) for name in sample.inputs()}
        return [name for name, found in moved.items() if not close(found, value, 1e-6)]

    @cached_property
    def alike(self) -> Subject | None:
        """The subject with a student whose outputs have the teacher's shapes; None if they cannot have them."""
        if self.fresh is None or not self.fresh.needs_teacher:
            return None
        try:
            like = _as_teacher(self.fresh, self.like)
            criterion = copy.deepcopy(self.fresh).cpu()
            with isolate_rng():
                criterion.build(like.student, like.teacher)
            found = Subject(self.name, criterion, like, None, self.halves)
            found.raw(found.as_teacher(found.draw(0)))
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError):
            return None  # it pairs no layers, was sized for other shapes, or has needs of its own
        return found

    def as_teacher(self, sample: Sample) -> Sample:
        """Return the sample with the teacher's outputs as the student's; for ``alike`` subjects."""
        return _as_teacher(self.criterion, sample)


def subject(name: str, built: Criterion, fresh: Criterion, recorded: Sample, precision: str = "32-true") -> Subject:
    """Prepare a criterion, ``fresh`` and with its layers sized, for examination on outputs like those recorded in training.

    The Trainer's precision and the batch's types both show which half-precision type training uses.

    Raises:
        ValueError: It refuses all outputs that are made up for it; the message says why.
    """
    while isinstance(built, OnHead) and isinstance(fresh, OnHead):
        recorded = _at_head(built, recorded)
        built, fresh = built.criterion, fresh.criterion
    if built.found_layers is not None:
        fresh = copy.deepcopy(fresh)
        fresh.set_found_layers(*built.found_layers)
    if isinstance(built, SoftTarget) and isinstance(fresh, SoftTarget):
        fresh = copy.deepcopy(fresh)
        fresh.standardize = built.standardize
    if isinstance(recorded.target, Mapping) and not built.takes_tasks:
        recorded = replace(recorded, target=None)
    named = [torch.bfloat16] if precision.startswith("bf16") else [torch.float16] if precision.startswith("16") else []
    halves = frozenset({recorded.student.logits.dtype, *named} & {torch.float16, torch.bfloat16})
    full = fewer(recorded)
    small = None if built.student_layers or built.teacher_layers else smaller(full)
    reason = "it was given nothing that it could compare"
    for like in (small, full):
        for dtype in (torch.float64, torch.float32):
            if like is None:
                continue
            try:
                made = Subject(name, built, like.to(dtype), fresh, halves)
                made.raw(made.draw(0))
            except Exception as error:  # whatever a criterion makes of outputs that it did not expect
                reason = f"{type(error).__name__}: {error}"
                continue
            return made
    raise ValueError(reason)


def _as_teacher(criterion: Criterion, sample: Sample) -> Sample:
    """Return the sample with the teacher's outputs, as far as the criterion reads them, as the student's."""
    if isinstance(criterion, FeatureCriterion):
        pairs = criterion.pair(sample.student, sample.teacher)
    else:
        names_s = expand_layers(criterion.student_layers, sample.student, "student")
        names_t = expand_layers(criterion.teacher_layers, sample.teacher, "teacher")
        pairs = list(zip(names_s, names_t, strict=True))
    features = {s: sample.teacher.features[t] for s, t in pairs}
    # No criterion reads the teacher's logits if there are none: the student keeps its own.
    logits = sample.teacher.logits if sample.teacher.logits.numel() else sample.student.logits
    return replace(sample, student=replace(sample.student, logits=logits, features=features))


def _at_head(criterion: OnHead, sample: Sample) -> Sample:
    student = replace(sample.student, logits=sample.student.features[criterion.student_head])
    teacher: Outputs = sample.teacher
    if criterion.teacher_head is not None:
        teacher = replace(teacher, logits=teacher.features[criterion.teacher_head])
    target = sample.target
    if isinstance(target, Mapping) and criterion.task_name is not None:
        target = target.get(criterion.task_name)
    return Sample(student, teacher, target)


def close(one: float, other: float, tolerance: float) -> bool:
    """Return True if two values are equal up to rounding; NaN equals nothing."""
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-12)
