"""Observations of a few training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_distill.criteria import Criterion
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.setup import Setup


@dataclass
class Watched:
    """Observations of a parameter.

    Attributes:
        before: Its value before the first step.
        now: The parameter itself, or what the module has put in its place.
        reached: It got a gradient at some step.
        pulled: It got a gradient that is not 0 at some step.
        pull: The largest finite absolute value in its gradients.
    """

    before: Tensor
    now: nn.Parameter
    reached: bool = False
    pulled: bool = False
    pull: float = 0.0


@dataclass
class Observations:
    """Observations of a fit.

    Attributes:
        sample: The first training batch's outputs; those of the dry run if no batch was trained.
        built: Copies of the criteria, with their layers sized, before the first step.
        steps: Number of finished training batches.
        student_call: The arguments of the student's first call, by position and by name.
        modes: For each frozen network, the names of its modules that ran in training mode.
        before: For each frozen network, a digest of every tensor before the first step.
        after: The same after the last one.
        right: Number of labels that the teacher knew.
        labels: Number of labels.
        classes: Number of classes.
        parameters: The trainable ones by name.
        unheld: Names of trainable parameters in no optimizer.
        held_teacher: Number of a frozen teacher's parameters that are in an optimizer.
        loose: Tensors that the loss differentiates step after step, and that are no parameters of the module.
        pulls: Each criterion's weighted gradient norm over the student's parameters.
        learning_rates: The largest learning rate by parameter id.
        updates: Number of optimizer steps.
        answers: Two answers of a frozen teacher to the first batch, in evaluation mode after the fit.
        student_in_eval: Names of the student's parts that were in eval mode in a training step, though they depend on the mode.
    """

    sample: Sample | None = None
    built: dict[str, Criterion] = field(default_factory=dict)
    steps: int = 0
    student_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    modes: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, dict[str, str]] = field(default_factory=dict)
    after: dict[str, dict[str, str]] = field(default_factory=dict)
    right: int = 0
    labels: int = 0
    classes: int = 0
    parameters: dict[str, Watched] = field(default_factory=dict)
    unheld: list[str] = field(default_factory=list)
    held_teacher: int = 0
    loose: list[Tensor] = field(default_factory=list)
    pulls: dict[str, float] = field(default_factory=dict)
    learning_rates: dict[int, float] = field(default_factory=dict)
    updates: int = 0
    answers: list[Tensor] = field(default_factory=list)
    student_in_eval: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrialFit:
    """A finished trial fit, as the checks of training read it.

    Attributes:
        setup: What was fitted.
        seen: What was observed.
        trainer: The Trainer that ran it.
        precision: The precision of the real fit.
        epochs: The epochs of the real fit, or None if unknown.
        error: The exception that ended it early, or None.
        warnings: What the library itself warned of.
    """

    setup: Setup
    seen: Observations
    trainer: Trainer
    precision: str
    epochs: int | None
    error: Exception | None
    warnings: Sequence[str]
