"""Distillation by features."""

from __future__ import annotations

from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion, Hint
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import (
    choose,
    comparing_logits,
    label_criteria,
    layer_pair,
    need_layers,
    refuse_unused,
)
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher


class FeatureDistillation(DistillationModule):
    """The student learns from labels and from the teacher's features (Romero et al. 2015).

    Starts with ``hard`` (weight 1) and ``hint`` (weight 1) on the given layers, each channel normalised so
    that the weight means the same for every layer; without ``hard`` where the task has no labels. With a ``JointTeacher``
    both networks train at the same time.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen, or a ``Teacher``.
        student_layer: The student's layer, or a glob, of the default hint.
        teacher_layer: The teacher's layer, or a glob, of the default hint.
        criteria: Criteria by name, in place of the two; one must read layers, none compare logits.
        weights: A weight for each criterion; needed with ``criteria``.
        task: As in ``DistillationModule``.
        optimizer: As in ``DistillationModule``.
        lr_scheduler: As in ``DistillationModule``.
        batch_format: As in ``DistillationModule``.
        fast: As in ``DistillationModule``.
        schedules: As in ``DistillationModule``.
        balance: As in ``DistillationModule``.
        metrics: As in ``DistillationModule``.
        lr_interval: As in ``DistillationModule``.
        lr_monitor: As in ``DistillationModule``.

    Raises:
        ValueError: No criterion reads layers, one compares logits, or an argument is wrong.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, float] | None = None,
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
    ) -> None:
        given = {"student_layer": student_layer, "teacher_layer": teacher_layer}
        refuse_unused(given, criteria)
        default: dict[str, Criterion] = {}
        if criteria is None:
            layers = layer_pair("FeatureDistillation", student_layer, teacher_layer)
            default = {**label_criteria(task), "hint": Hint(*layers, normalise="channel")}
        chosen, weighting = choose(criteria, weights, default, dict.fromkeys(default, 1.0))
        need_layers("FeatureDistillation", chosen)
        logits = comparing_logits(chosen)
        if logits:
            raise ValueError(
                f"FeatureDistillation compares layers alone, and {', '.join(map(repr, logits))} compares logits; use "
                "CombinedDistillation."
            )
        super().__init__(
            student,
            teacher,
            chosen,
            weighting,
            task,
            optimizer,
            lr_scheduler,
            batch_format,
            fast,
            schedules,
            balance,
            metrics,
            lr_interval,
            lr_monitor,
        )
        record_hyperparameters(self, given)
