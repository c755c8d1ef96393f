"""Training without a teacher: the baseline, and the teacher itself."""

from __future__ import annotations

from torch import nn

from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion, HardTarget
from lit_distill.criteria.hard_target import LABEL_TASKS
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import refuse_task
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.utils.arguments import check_network


class SupervisedModule(DistillationModule):
    """Trains or fine-tunes one network on labels, on the code path that distillation takes.

    So a teacher, a baseline and a distilled student differ in nothing but their criteria.

    Args:
        model: The network; ``module.student`` holds it.
        label_smoothing: Of the cross-entropy, in [0, 1).
        task: As in ``DistillationModule``.
        optimizer: As in ``DistillationModule``.
        lr_scheduler: As in ``DistillationModule``.
        batch_format: As in ``DistillationModule``.
        fast: As in ``DistillationModule``.
        metrics: As in ``DistillationModule``.
        lr_interval: As in ``DistillationModule``.
        lr_monitor: As in ``DistillationModule``.

    Raises:
        ValueError: An argument is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        label_smoothing: float = 0.0,
        task: Task = "multiclass",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        batch_format: BatchFormat | None = None,
        fast: bool = False,
        metrics: Metrics | None = None,
        lr_interval: Interval | None = None,
        lr_monitor: str | None = None,
    ) -> None:
        refuse_task("SupervisedModule", task, LABEL_TASKS, "it trains on labels alone")
        check_network("model", model)
        criteria: dict[str, Criterion] = {"hard": HardTarget(label_smoothing, task)}
        super().__init__(
            model,
            None,
            criteria,
            {"hard": 1.0},
            task,
            optimizer,
            lr_scheduler,
            batch_format,
            fast,
            metrics=metrics,
            lr_interval=lr_interval,
            lr_monitor=lr_monitor,
        )
