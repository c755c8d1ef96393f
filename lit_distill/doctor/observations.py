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
    """Observations of a parameter."""

    before: Tensor  # its value before the first step
    now: nn.Parameter  # the parameter itself, or what the module has put in its place
    reached: bool = False  # it got a gradient at some step
    pulled: bool = False  # it got a gradient that is not 0 at some step
    pull: float = 0.0  # the largest finite absolute value in its gradients


@dataclass
class Observations:
    """Observations of a fit; networks and parameters by their names in findings."""

    # Of the first training batch: both networks' outputs (those of the dry run if no batch was trained), the arguments of the
    # student's first call, and two answers of a frozen teacher, in evaluation mode after the fit.
    sample: Sample | None = None
    student_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    answers: list[Tensor] = field(default_factory=list)

    built: dict[str, Criterion] = field(default_factory=dict)  # copies of the criteria, sized, before the first step
    steps: int = 0  # finished training batches
    updates: int = 0  # steps of optimizers

    # Of each frozen network: its modules that ran in training mode, and digests of its tensors before and after all steps.
    modes: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, dict[str, str]] = field(default_factory=dict)
    after: dict[str, dict[str, str]] = field(default_factory=dict)

    right: int = 0  # labels that the teacher knew
    labels: int = 0
    classes: int = 0

    parameters: dict[str, Watched] = field(default_factory=dict)  # the trainable ones
    unheld: list[str] = field(default_factory=list)  # trainable parameters in no optimizer
    held_teacher: int = 0  # parameters of a frozen teacher that are in an optimizer
    loose: list[Tensor] = field(default_factory=list)  # no parameters, but differentiated by the loss step after step
    pulls: dict[str, float] = field(default_factory=dict)  # criteria's weighted gradient norms over the student
    learning_rates: dict[int, float] = field(default_factory=dict)  # the largest, by parameter id
    student_in_eval: list[str] = field(default_factory=list)  # parts in eval mode in training that depend on the mode


@dataclass(frozen=True)
class TrialFit:
    """A finished trial fit, as the checks of training read it."""

    setup: Setup
    seen: Observations
    trainer: Trainer
    precision: str  # of the real fit
    epochs: int | None  # of the real fit; None if unknown
    error: Exception | None  # ended it early
    warnings: Sequence[str]  # the library's own
