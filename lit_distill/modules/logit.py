"""Distillation by logits."""

from __future__ import annotations

from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import (
    DEFAULT_TEMPERATURE,
    changed_temperature,
    choose,
    logit_criteria,
    refuse_layers,
    refuse_unused,
)
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_temperature


class LogitDistillation(DistillationModule):
    """The student learns from labels and from the teacher's logits (Hinton et al. 2015).

    Starts with ``hard`` (weight 0.1) and ``soft`` (weight 0.9, temperature 4), the values that CIFAR
    experiments use. Without labels, give ``criteria={"soft": SoftTarget()}, weights={"soft": 1.0}``.

    For the task ``regression`` both are mean squared errors, ``HardTarget(task="regression")`` and ``LogitMSE``. For
    ``embedding`` there is ``soft`` alone, of weight 1: ``LogitMSE``, so that the student's vectors can stand in the place of
    the teacher's, whatever distance they are searched by. The task ``none`` has no default.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen, or a ``Teacher``.
        criteria: Criteria by name, in place of the two; none may read layers.
        weights: A weight for each criterion; needed with ``criteria``.
        temperature: Of the default soft target of classes.
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
        ValueError: A criterion reads layers, or an argument is wrong.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, float] | None = None,
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
    ) -> None:
        temperature = check_temperature(temperature)
        refuse_unused({"temperature": changed_temperature(temperature)}, criteria)
        default, shares = logit_criteria("LogitDistillation", task, temperature) if criteria is None else ({}, {})
        chosen, weighting = choose(criteria, weights, default, shares)
        refuse_layers("LogitDistillation", chosen)
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
        record_hyperparameters(self, {"temperature": temperature})
