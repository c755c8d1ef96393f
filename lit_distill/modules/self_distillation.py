"""Distillation without a teacher: a student that teaches itself."""

from __future__ import annotations

from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.criteria import Criterion, HardTarget, OwnTeacher
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import choose, refuse_task, refuse_unused
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule


class SelfDistillation(DistillationModule):
    """The student learns from labels and from what it says itself, or from what is made up of the labels.

    Starts with ``hard`` (weight 1) and ``own`` (``OwnTeacher``, weight 1) with exits on the given layers. Other criteria
    that need no teacher take their place, ``TeacherFree`` first of all. A teacher that is made from the student, as
    ``EMATeacher`` is, goes into the other modules.

    Args:
        student: The network to train.
        student_layer: Where the default's exits are: a layer reference, a glob or a list of them.
        deepest_layer: The feature for the exits' features to match; none match where None.
        criteria: Criteria by name, in place of the two.
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
        ValueError: A criterion needs a teacher, or an argument is wrong.
    """

    def __init__(
        self,
        student: nn.Module,
        student_layer: str | list[str] | None = None,
        deepest_layer: str | None = None,
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
        given = {"student_layer": student_layer, "deepest_layer": deepest_layer}
        refuse_unused(given, criteria)
        default: dict[str, Criterion] = {}
        if criteria is None:
            if student_layer is None:
                raise ValueError(
                    "SelfDistillation needs layers for its exits: give student_layer (such as 'layer2', or a list), or your "
                    "own criteria."
                )
            refuse_task("SelfDistillation", task, CLASS_TASKS, "its exits classify; give your own criteria")
            default = {"hard": HardTarget(task=task), "own": OwnTeacher(student_layer, deepest_layer, task=task)}
        chosen, weighting = choose(criteria, weights, default, {"hard": 1.0, "own": 1.0})
        super().__init__(
            student,
            None,
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
