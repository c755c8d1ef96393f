"""What was seen of a few training steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lit_distill.criteria import Criterion
from lit_distill.doctor.sample import Sample


@dataclass
class Watched:
    """What was seen of a parameter.

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
class Record:
    """What was seen.

    Attributes:
        sample: The first training batch's outputs; those of the rehearsal before the fit, where it never came so far.
        built: Copies of the criteria, with their layers sized, before the first step.
        steps: Training batches that were run to their end.
        student_call: What the student was first called with, by position and by name.
        modes: Of each frozen network, the names of its modules that ran in training mode.
        before: Of each frozen network, a hash of every tensor before the first step.
        after: The same after the last one.
        right: How many labels the teacher knew.
        asked: Of how many.
        classes: Of how many classes.
        parameters: The trainable ones by name.
        unheld: Names of trainable parameters in no optimizer.
        held_teacher: How many of a frozen teacher's parameters are in an optimizer.
        loose: Tensors that the loss differentiates step after step, and that are no parameters of the module.
        pulls: Each criterion's weighted gradient norm over the student's parameters.
        learning_rates: The largest that was seen for each parameter's id.
        updates: Optimizer steps.
        answers: What a frozen teacher said of the first batch, asked twice in evaluation mode afterwards.
        student_in_eval: Names of the student's parts that were in eval mode in a training step, and do not work as in one.
    """

    sample: Sample | None = None
    built: dict[str, Criterion] = field(default_factory=dict)
    steps: int = 0
    student_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    modes: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, dict[str, bytes]] = field(default_factory=dict)
    after: dict[str, dict[str, bytes]] = field(default_factory=dict)
    right: int = 0
    asked: int = 0
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
