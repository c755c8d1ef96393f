"""The base of every distillation: batch -> student and teacher outputs -> criteria -> weighted sum -> logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from lit_distill.balance import Balance
from lit_distill.batch.as_trained import on_device
from lit_distill.batch.batch import Batch, BatchFormat, Inputs, call_model, given_format
from lit_distill.batch.labels import Task
from lit_distill.callbacks.throughput import Throughput, is_logging_step
from lit_distill.criteria import Criterion
from lit_distill.engine import checks
from lit_distill.engine.acceleration import Acceleration
from lit_distill.engine.charts import add_comparison_charts
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.evaluator import Evaluator
from lit_distill.engine.finiteness import blamed_criterion, finite_gradients, refuse_loss
from lit_distill.engine.named_criteria import Weight
from lit_distill.engine.step import StepLoss
from lit_distill.engine.task_gradient import splits_gradients
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.files.resuming import guard, naming_file
from lit_distill.files.reviving import Revivable
from lit_distill.models.pruned import adopt_histories, write_histories
from lit_distill.modules.dry_run import ModuleDryRun
from lit_distill.modules.early_hooks import EarlyHooks
from lit_distill.modules.evaluation_steps import EvaluationSteps
from lit_distill.modules.hyperparameters import describe_module, record_hyperparameters, warn_of_changed_settings
from lit_distill.modules.optimization import Interval, Optimization, OptimizerFactory, SchedulerFactory
from lit_distill.modules.unused_hooks import warn_of_unused_hooks
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_flag
from lit_distill.utils.lightning_names import explain_refused_modules
from lit_distill.utils.plain import make_scalars_plain, plain_number
from lit_distill.utils.signals import end_if_terminated

Metrics = dict[str, Metric] | MetricCollection


class DistillationModule(Revivable, EvaluationSteps):
    """A student, a teacher and a weighted set of named criteria; Lightning does the rest.

    A frozen teacher is no submodule: it is in no optimizer and no checkpoint, but moves with the module to another device.
    The student is ``module.student``, a plain module after each run; projectors are in ``module.criteria``.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen; a ``Teacher``; or None.
        criteria: Criteria by name.
        weights: A weight of 0 or more for each criterion; found in training if ``auto`` or left out.
        task: What the student's outputs are. ``multiclass``, ``binary`` or ``multilabel``: scores of classes.
            ``regression``: numbers, with numbers as labels. ``embedding``: vectors, without labels. ``none``: anything else;
            no metrics are computed except your own.
        optimizer: Makes the optimizer from the trainable parameters; AdamW at 1e-3 if None. A top-level ``optimizer`` of a
            config takes precedence.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer; the rate is constant if None.
        batch_format: Names of the entries in dict batches and outputs.
        fast: Compile the student, and give a frozen teacher without a runtime the fastest one of the device (int8 or bf16 if
            the hardware has it). Evaluation does not change.
        schedules: Values that change during training, by key: ``soft.weight``, ``soft.temperature`` or any other number of
            a criterion. A schedule replaces the given value.
        balance: Finds the weights during training; ``weights`` stay fixed if None.
        metrics: Torchmetrics by name, or a ``MetricCollection``, computed for both networks in validation and test, and
            logged as ``val/<name>/student`` and so on.
        lr_interval: When the scheduler steps: ``epoch`` or ``step``. If None, per epoch; schedulers such as OneCycleLR
            step with the optimizer if they plan more steps than the fit has epochs.
        lr_monitor: The logged metric that ``ReduceLROnPlateau`` watches, such as ``val/cross_entropy/student``.
        strength: Multiplies the weight of every criterion that needs a teacher; 0 turns it off.

    Raises:
        ValueError: A layer is unknown, a weight is wrong, or the two networks share parameters.
        TypeError: An argument has the wrong type: a path for a network, a list for a mapping, a class for an object.

    Examples:
        >>> from torch import nn
        >>> from lit_distill.criteria import DKD
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> module = DistillationModule(student, teacher, {"dkd": DKD()}, {"dkd": 1.0})
        >>> module(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | None,
        criteria: Mapping[str, Criterion],
        weights: Mapping[str, Weight],
        task: Task = "multiclass",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        batch_format: BatchFormat | None = None,
        fast: bool = False,
        schedules: Mapping[str, Schedule] | None = None,
        balance: Balance | None = None,
        metrics: Metrics | None = None,
        lr_interval: Interval | None = None,
        lr_monitor: str | None = None,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        explain_refused_modules()
        checks.module_arguments(student, teacher, criteria, task)
        self.task: Task = task
        self.student = student
        self.criteria = WeightedCriteria(criteria, weights, schedules, balance, strength)
        self._format = given_format(batch_format)
        self.distiller = Distiller(student, teacher, self.criteria, self._format)
        self.distiller.checkpoint_entry.task = task
        self._teacher = self.distiller.teacher
        self.joint_teacher = self.distiller.registered_teacher
        self.optimization = Optimization(optimizer, lr_scheduler, lr_interval, lr_monitor)
        self._acceleration = Acceleration(check_flag("fast", fast))
        self._reader = self.distiller.reader(numbers=task == "regression")
        self._dry_run = ModuleDryRun(self.distiller, self._reader)
        self._last_batch: Any = None  # during its step
        self._evaluator = Evaluator(task, self._teacher, metrics=metrics, strict=self.distiller.reads_labels)
        record_hyperparameters(self, describe_module(self.distiller, task, fast))
        self.distiller.release()

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher's network, frozen or training, or None."""
        return self._teacher.model if self._teacher is not None else None

    @property
    def learning_rate(self) -> float:
        """The learning rate that training starts with; Lightning's learning-rate finder sets it."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.optimization.first_rate(trainable)

    @learning_rate.setter
    def learning_rate(self, rate: float | None) -> None:
        self.optimization.adopt(rate, self._trainer)

    def forward(self, inputs: Inputs) -> Any:
        """Return the student's output."""
        with self._acceleration.evaluation(), self.distiller.capture.muted():
            return call_model(self.student, inputs)

    # One batch -----------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._last_batch = batch
        data = self._read_training(batch)
        fast = self._acceleration
        sides = self.distiller.run(data, within=fast.training(data.size) if fast.on else None)
        with self.distiller.repeated_backward() if self.distiller.eager_steps.active else nullcontext():
            losses = self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        loss = self.distiller.step_loss(losses, sides)
        if not torch.isfinite(loss.total):
            refuse_loss(loss.total, losses, loss.own, self.global_step, data, self.distiller.networks())
        self._log_training(loss, data.size)
        return loss.total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        finite_gradients(self.trainer, self, optimizer, self._blame_gradient)

    def _blame_gradient(self) -> str | None:
        return (
            blamed_criterion(self.distiller, self._read_training(self._last_batch))
            if self._last_batch is not None
            else None
        )

    def _log_training(self, loss: StepLoss, size: int) -> None:
        self.log("train/loss", loss.total.detach(), prog_bar=True, batch_size=size)
        if not (is_logging_step(self.trainer) or self.trainer.should_stop):
            return  # Lightning takes 0.4 ms per metric, and drops them at other steps
        logs = self.distiller.logs(loss)
        if self.trainer.optimizers:
            logs["learning_rate"] = plain_number(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({f"train/{name}": value for name, value in logs.items()}, batch_size=size)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._last_batch = None

    def _read_training(self, batch: Any) -> Batch:
        return self._dry_run.read(batch) if self._dry_run.several_loaders else self._reader.read(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the student's output for a batch."""
        return self(self._reader.read(batch).inputs)

    # Before the first batch ----------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Put our hooks before all other callbacks: weight averaging copies the module in its setup."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, Throughput) for callback in callbacks):
            callbacks.insert(0, Throughput())
        if not any(isinstance(callback, EarlyHooks) for callback in callbacks):
            callbacks.insert(0, EarlyHooks())
        return []

    def setup(self, stage: str) -> None:
        guard(self.trainer)
        if stage == "fit" and not self._dry_run.done:
            self.dry_run_on_data()

    def dry_run_on_data(self) -> None:
        """Run two training samples through the networks and criteria: size projectors, and find errors before the fit.

        Raises:
            ValueError: The networks, the criteria and the data do not fit; the message says which and why.
        """
        self._dry_run.run_on_data(self)

    def dry_run(self, data: Batch, read: Sequence[str] = ()) -> None:
        """Run an example through both networks and the criteria; nothing is trained.

        Args:
            data: The example.
            read: Lines that say what was read of the batch, to print.

        Raises:
            ValueError: The networks, the criteria and the data do not fit; the message says which and why.
        """
        self._dry_run.run(data, self, read)

    def check_lone_batches(self, batch: Any) -> None:
        """Refuse batches of one sample that BatchNorm cannot train on, before the first batch of a fit.

        Args:
            batch: The first batch.
        """
        self._dry_run.check_lone_batches(self.trainer, batch)

    def on_fit_start(self) -> None:
        self._dry_run.restart()
        self._evaluator.forget()
        if not self.student.training:  # as `from_pretrained` returns it
            self.student.train()
        checks.optimizers_hold_everything(self, self.trainer.optimizers)
        chosen = self.optimization.is_given or "configure_optimizers" in vars(self)  # set by a config
        warn_of_unused_hooks(self.student, self.trainer.optimizers, chosen)
        twice = splits_gradients(self.trainer)
        self._acceleration.start(self.student, self._teacher, self.device, str(self.trainer.precision), not twice)
        self.distiller.on_fit_start(self.trainer, self, self._read_training)
        add_comparison_charts(self.loggers)

    def on_train_start(self) -> None:
        self.optimization.check(self.trainer)
        self.distiller.on_train_start(self.trainer, self._read_inputs)
        self._acceleration.report(self._teacher)

    def on_fit_end(self) -> None:
        self.distiller.on_fit_end()
        self.leave_plain()

    def teardown(self, stage: str) -> None:
        end_if_terminated(self.trainer)

    def leave_plain(self) -> None:
        """Make both networks plain modules again: without hooks, not compiled, in their own memory layout."""
        self._acceleration.stop(self.student)
        self.distiller.release()

    def _read_inputs(self, batch: Any) -> Inputs:
        return self._read_training(on_device(self.trainer, self, batch, self.device)).for_teacher

    def configure_optimizers(self) -> Any:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.optimization.configure(trainable, self._trainer)

    # Checkpoints and devices ---------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.distiller.checkpoint_entry.write(checkpoint, self.criteria, this_rank_only=self.trainer.interrupted)
        write_histories(self, checkpoint)
        make_scalars_plain(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        with naming_file(self._trainer.ckpt_path if self._trainer is not None else None):
            adopt_histories(self, checkpoint)
            self.distiller.read_checkpoint(checkpoint)
        if self._trainer is None:
            return
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        warn_of_changed_settings(self.hparams, checkpoint, self.distiller.checkpoint_entry, fitting)
        if fitting:
            with naming_file(self.trainer.ckpt_path):
                self.distiller.checkpoint_entry.restore_rng(self.trainer, last=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationModule:
        self.distiller.move(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
