"""Distillation by logits and features together."""

from __future__ import annotations

from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion, Hint
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.soft_target import Standardize, check_standardize
from lit_distill.engine.named_criteria import Weight
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import (
    DEFAULT_TEMPERATURE,
    choose,
    logit_criteria,
    need_layers,
    need_logits,
    refuse_unused,
)
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_temperature


class CombinedDistillation(DistillationModule):
    """The student learns from labels, from the teacher's logits and from its features.

    The default criteria are ``hard`` (weight 0.1), ``soft`` (weight 0.9, temperature 4) and ``hint`` (weight 1, with
    normalised channels) on the given layers.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen, or a ``Teacher``.
        student_layer: The student's layer that the default hint reads, or a glob; if None, the ends of its stages are found.
        teacher_layer: The teacher's layer that the default hint reads, or a glob; if None, the ends of its stages are found.
        criteria: Criteria by name instead of the defaults; one must read layers and one must compare logits.
        weights: A weight for each criterion; found in training if ``auto`` or left out of your ``criteria``.
        temperature: Temperature of the default soft target, above 0.
        task: What the outputs are: ``multiclass``, ``binary``, ``multilabel``, ``regression``, ``embedding`` or ``none``.
        optimizer: Makes the optimizer from the trainable parameters; AdamW at 1e-3 if None.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer; the rate is constant if None.
        batch_format: Names of the entries in dict batches and outputs.
        fast: Compile the student, and give a frozen teacher the fastest runtime of the device.
        schedules: Values that change during training, by key: ``soft.weight``, ``soft.temperature``.
        balance: Finds the weights during training; ``weights`` stay fixed if None.
        metrics: Torchmetrics by name, computed for both networks in validation and test.
        lr_interval: When the scheduler steps: ``epoch`` or ``step``; depends on the scheduler if None.
        lr_monitor: The logged metric that ``ReduceLROnPlateau`` watches, such as ``val/cross_entropy/student``.
        strength: Multiplies the weight of every criterion that needs a teacher; 0 turns it off.
        standardize: Whether the default soft target standardizes the logits of both networks; with ``auto`` where that is
            known to be sound.

    Raises:
        ValueError: No criterion reads layers, none compares logits, or an argument is wrong.

    Examples:
        >>> from lit_distill.models import MLP
        >>> module = CombinedDistillation(MLP(), MLP(), student_layer="hidden", teacher_layer="hidden")
        >>> list(module.criteria.criteria())
        ['hard', 'soft', 'hint']
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, Weight] | None = None,
        temperature: float = DEFAULT_TEMPERATURE,
        task: Task = "multiclass",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        batch_format: BatchFormat | None = None,
        fast: bool = False,
        schedules: dict[str, Schedule] | None = None,
        balance: Balance | None = None,
        metrics: Metrics | None = None,
        lr_interval: Interval | None = None,
        lr_monitor: str | None = None,
        strength: float = 1.0,
        standardize: Standardize = AUTO,
    ) -> None:
        temperature = check_temperature(temperature)
        given = {"student_layer": student_layer, "teacher_layer": teacher_layer}
        standardize = check_standardize(standardize)
        refuse_unused({**given, "standardize": standardize if standardize is True else None}, criteria, temperature)
        default: dict[str, Criterion] = {}
        shares: dict[str, float] = {}
        if criteria is None:
            layers = (student_layer or AUTO, teacher_layer or AUTO)
            default, shares = logit_criteria("CombinedDistillation", task, temperature, standardize)
            default, shares = {**default, "hint": Hint(*layers, normalise="channel")}, {**shares, "hint": 1.0}
        chosen, weighting = choose(criteria, weights, default, shares)
        need_layers("CombinedDistillation", chosen)
        need_logits("CombinedDistillation", chosen)
        rest = (
            optimizer,
            lr_scheduler,
            batch_format,
            fast,
            schedules,
            balance,
            metrics,
            lr_interval,
            lr_monitor,
            strength,
        )
        super().__init__(student, teacher, chosen, weighting, task, *rest)
        record_hyperparameters(self, {**given, "temperature": temperature, "standardize": standardize})
