"""Distillation by logits."""

from __future__ import annotations

from torch import nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.soft_target import Standardize, check_standardize
from lit_distill.engine.named_criteria import Weight
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import DEFAULT_TEMPERATURE, choose, logit_criteria, refuse_layers, refuse_unused
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_temperature


class LogitDistillation(DistillationModule):
    """The student learns from labels and from the teacher's logits (Hinton et al. 2015).

    The default criteria are ``hard`` (weight 0.1) and ``soft`` (weight 0.9, temperature 4), the usual values for CIFAR.
    Without labels, give ``criteria={"soft": SoftTarget()}, weights={"soft": 1.0}``.

    For the task ``regression`` both are mean squared errors, ``HardTarget(task="regression")`` and ``LogitMSE``. For
    ``embedding`` there is only ``soft`` (``LogitMSE``, weight 1), so that the student's vectors can replace the teacher's
    under any distance. The task ``none`` has no defaults.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen, or a ``Teacher``.
        criteria: Criteria by name instead of the defaults; none may read layers.
        weights: A weight for each criterion; found in training if ``auto`` or left out of your ``criteria``.
        temperature: Temperature of the default soft target of classes, above 0.
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
        ValueError: A criterion reads layers, or an argument is wrong.

    Examples:
        >>> from torch import nn
        >>> module = LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3), temperature=2.0)
        >>> module.criteria.weights
        {'hard': 0.1, 'soft': 0.9}
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher,
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
        standardize = check_standardize(standardize)
        refuse_unused({"standardize": standardize if standardize is True else None}, criteria, temperature)
        default, shares = (
            logit_criteria("LogitDistillation", task, temperature, standardize) if criteria is None else ({}, {})
        )
        chosen, weighting = choose(criteria, weights, default, shares)
        refuse_layers("LogitDistillation", chosen)
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
        record_hyperparameters(self, {"temperature": temperature, "standardize": standardize})
