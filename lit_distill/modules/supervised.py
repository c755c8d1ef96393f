"""Training without a teacher: baselines and teachers."""

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
    """Trains or fine-tunes one network on labels, with the same code as a distillation.

    A teacher, a baseline and a distilled student thus differ only in their criteria.

    Args:
        model: The network; ``module.student`` holds it.
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1).
        task: What the outputs are: ``multiclass``, ``binary``, ``multilabel``, ``regression``, ``embedding`` or ``none``.
        optimizer: Makes the optimizer from the trainable parameters; AdamW at 1e-3 if None.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer; the rate is constant if None.
        batch_format: Names of the entries in dict batches and outputs.
        fast: Compile the student, and give a frozen teacher the fastest runtime of the device.
        metrics: Torchmetrics by name, computed for both networks in validation and test.
        lr_interval: When the scheduler steps: ``epoch`` or ``step``; depends on the scheduler if None.
        lr_monitor: The logged metric that ``ReduceLROnPlateau`` watches, such as ``val/cross_entropy/student``.

    Raises:
        ValueError: An argument is wrong.

    Examples:
        >>> from torch import nn
        >>> module = SupervisedModule(nn.Linear(4, 3), label_smoothing=0.1)
        >>> module(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
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
        refuse_task("SupervisedModule", task, LABEL_TASKS, "it trains only on labels")
        check_network("model", model)
        criteria: dict[str, Criterion] = {"hard": HardTarget(label_smoothing, task)}
        rest = (optimizer, lr_scheduler, batch_format, fast, None, None, metrics, lr_interval, lr_monitor)
        super().__init__(model, None, criteria, {"hard": 1.0}, task, *rest)
