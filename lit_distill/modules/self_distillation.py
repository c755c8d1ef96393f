"""Distillation without a teacher: a student that teaches itself."""

from __future__ import annotations

from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.criteria import Criterion, HardTarget, OwnTeacher
from lit_distill.engine.named_criteria import Weight
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import choose, refuse_task, refuse_unused
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule


class SelfDistillation(DistillationModule):
    """The student learns from labels and from its own deepest layers, or from made-up soft labels.

    The default criteria are ``hard`` (weight 1) and ``own`` (``OwnTeacher``, weight 1), with exits on the given layers.
    Other criteria that need no teacher, such as ``TeacherFree``, can replace them. For a teacher made from the student, such
    as ``EMATeacher``, use one of the other modules.

    Args:
        student: The network to train.
        student_layer: The layers that the default exits read: a name, a glob or a list of these.
        deepest_layer: The layer whose feature the exits' features match; none if None.
        criteria: Criteria by name instead of the defaults.
        weights: A weight for each criterion; found in training if ``auto`` or left out of your ``criteria``.
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

    Raises:
        ValueError: A criterion needs a teacher, or an argument is wrong.

    Examples:
        >>> from torch import nn
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> list(SelfDistillation(student, "0").criteria.criteria())
        ['hard', 'own']
    """

    def __init__(
        self,
        student: nn.Module,
        student_layer: str | list[str] | None = None,
        deepest_layer: str | None = None,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, Weight] | None = None,
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
        super().__init__(student, None, chosen, weighting, task, *rest)
        record_hyperparameters(self, given)
