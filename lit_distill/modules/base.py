"""The base of every distillation: one batch flows one way through it.

batch -> student and teacher outputs -> criteria -> weighted sum -> logs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from lit_distill.balance import Balance
from lit_distill.batch.as_trained import in_weights_type, networks_of, on_device, training_step_context
from lit_distill.batch.batch import Batch, BatchFormat, Inputs, call_model, given_format
from lit_distill.batch.examples import training_data
from lit_distill.batch.labels import TASKS, Task
from lit_distill.batch.positions import settle, settled_logits
from lit_distill.batch.reporting import describe, join
from lit_distill.batch.snapshots import comparing_values
from lit_distill.callbacks.throughput import Throughput, is_logging_step
from lit_distill.criteria import Criterion
from lit_distill.engine import checks
from lit_distill.engine.acceleration import Acceleration
from lit_distill.engine.charts import add_comparison_charts
from lit_distill.engine.distiller import Distiller, StepLoss
from lit_distill.engine.evaluator import Evaluator
from lit_distill.engine.finiteness import finite_gradients, not_finite_through, refuse_loss
from lit_distill.engine.named_criteria import check_criteria
from lit_distill.engine.remembered import class_name
from lit_distill.engine.task_gradient import splits_gradients
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.files.resuming import guard, naming_file
from lit_distill.files.reviving import Revivable
from lit_distill.modules.first_callback import FirstCallback
from lit_distill.modules.hyperparameters import describe_criteria, record_hyperparameters, tell_changes
from lit_distill.modules.optimization import Interval, Optimization, OptimizerFactory, SchedulerFactory
from lit_distill.modules.passed_over import tell_passed_over
from lit_distill.preflight.dry_run import DryRun
from lit_distill.preflight.input_types import explain_input_type
from lit_distill.preflight.lone_batches import lone_batch
from lit_distill.preflight.networks import check_networks, refuse_empty
from lit_distill.preflight.unfreezing import unfreezes_later
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_choice, check_flag, check_network
from lit_distill.utils.lightning_names import explain_refused_modules
from lit_distill.utils.plain import make_scalars_plain, plain_number
from lit_distill.utils.restoring import unchanged
from lit_distill.utils.signals import end_if_terminated
from lit_distill.utils.tensors import first_parameter

Metrics = dict[str, Metric] | MetricCollection


MAIN_FIGURES: dict[Task, str] = {
    "regression": "mean_squared_error/student",
    "embedding": "cosine_similarity",
}  # of the tasks that have no accuracy


class DistillationModule(Revivable, LightningModule):
    """A student, a teacher and a weighted set of named criteria. All else is Lightning's.

    A frozen teacher is no submodule: it is in no optimizer and no checkpoint, yet follows the device. The
    student is ``module.student``, a plain module after each run; projectors live in ``module.criteria``.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen; or a ``Teacher``; or None.
        criteria: Criteria by name.
        weights: A weight for each criterion.
        task: What the student's outputs are. ``multiclass``, ``binary`` or ``multilabel``: scores of classes.
            ``regression``: numbers, with labels that are numbers. ``embedding``: vectors without labels of their own.
            ``none``: nothing that figures are made of; the criteria given say all.
        optimizer: Makes the optimizer of the trainable parameters; AdamW at 1e-3 where None. A top-level
            ``optimizer`` of a config comes before it.
        lr_scheduler: Makes the scheduler.
        batch_format: Names of the entries in dict batches and outputs.
        schedules: What changes during training: ``soft.weight``, ``soft.temperature`` or any other number of a criterion, and
            its schedule, whose values replace the one given.
        balance: Finds the weights in force during training.
        fast: Train with what is quickest on the device: the student compiled, a frozen teacher without a runtime of
            its own in the best one (int8 or bf16 where the hardware has it). Evaluation stays as it is.
        metrics: Torchmetrics of your own, by name or in a ``MetricCollection``, computed of both networks in validation and
            test, and logged as ``val/<name>/student`` and so on. ``modules.own_metrics`` says what they are updated with.
        lr_interval: When the scheduler steps: ``epoch`` or ``step``. If None, each epoch; OneCycleLR, CyclicLR and their
            like step with the optimizer where they plan more steps than the fit has epochs.
        lr_monitor: The logged figure that ``ReduceLROnPlateau`` watches, such as ``val/cross_entropy/student``.

    Raises:
        ValueError: A layer is unknown, a weight is wrong, or the two networks share parameters.
        TypeError: An argument is of another kind: a path for a network, a list for a mapping, a class for an object.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | None,
        criteria: Mapping[str, Criterion],
        weights: Mapping[str, float],
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
    ) -> None:
        super().__init__()
        explain_refused_modules()
        check_choice("task", task, TASKS)
        check_criteria(criteria)
        checks.same_task(criteria, task)
        check_network("student", student)
        checks.can_be_called(student, "student")
        if teacher is not None:
            check_network("teacher", teacher, (Teacher,))
        checks.can_be_called(teacher, "teacher")
        self.task: Task = task
        self.student = student
        self.criteria = WeightedCriteria(criteria, weights, schedules, balance)
        self._format = given_format(batch_format)
        self.distiller = Distiller(student, teacher, self.criteria, self._format)
        self.distiller.note.task = task
        self._teacher = self.distiller.teacher
        self.joint_teacher = self.distiller.registered_teacher
        self.optimization = Optimization(optimizer, lr_scheduler, lr_interval, lr_monitor)
        self._acceleration = Acceleration(check_flag("fast", fast))
        self._dry_run_done = False
        self._seen_batches: str | None = None
        self._reader = self.distiller.reader(numbers=task == "regression")
        self._several_loaders = False
        self._last_batch: Any = None  # during its step
        self._evaluator = Evaluator(task, self._teacher, metrics=metrics, strict=self.distiller.reads_labels)
        plain = {
            "task": task,
            "fast": bool(fast),
            "weights": dict(self.criteria.weights),
            "student_class": class_name(student),
            "teacher_class": class_name(self._teacher.model) if self._teacher else "none",
            "criteria_settings": describe_criteria(criteria),
            "schedule_settings": {key: str(schedule) for key, schedule in self.criteria.schedules.items()},
            "balance_class": class_name(balance) if balance is not None else "none",
        }
        record_hyperparameters(self, plain)
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
        """What the student alone returns."""
        with self._acceleration.evaluation(), self.distiller.capture.muted():
            return call_model(self.student, inputs)

    # One batch -----------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._last_batch = batch
        data = self._unpack_training(batch)
        sides = self.distiller.run(data, within=self._acceleration.training(data.size))
        with self.distiller.measuring():
            losses = self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        loss = self.distiller.step_loss(losses, sides)
        if not torch.isfinite(loss.total):
            refuse_loss(loss.total, losses, loss.own, self.global_step, data, self.distiller.networks())
        self._log_training(loss, data.size)
        return loss.total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        finite_gradients(self.trainer, self, optimizer, self._blame_gradient)

    def _blame_gradient(self) -> str | None:
        """Which criterion has a gradient that is not finite, found by running the last batch once more."""
        if self._last_batch is None:
            return None
        with unchanged(*self.distiller.networks().values(), self.criteria), torch.enable_grad():
            self.criteria.eval()
            data = self._unpack_training(self._last_batch)
            student = self.distiller.capture.run(data.inputs)
            sides = self.distiller.sides(student, self.distiller.run_teacher(data), data)
            losses = self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
            return not_finite_through(losses.terms, self.criteria.criteria(), self.student.parameters())

    def _log_training(self, loss: StepLoss, size: int) -> None:
        self.log("train/loss", loss.total.detach(), prog_bar=True, batch_size=size)
        if not (is_logging_step(self.trainer) or self.trainer.should_stop):
            return  # Lightning takes 0.4 ms for each figure, and drops them at other steps
        logs = self.distiller.logs(loss)
        if self.trainer.optimizers:
            logs["learning_rate"] = plain_number(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({f"train/{name}": value for name, value in logs.items()}, batch_size=size)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._last_batch = None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """The student's output for a batch."""
        return self(self._unpack(batch).inputs)

    def _evaluate(self, stage: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        given = self._unpack(batch)
        with self.distiller.guard.closely_once((stage, dataloader_idx)):
            with self._acceleration.evaluation(), self._watched_student(given):
                raw = self.distiller.capture.predict(given.inputs)
            data, outputs, _ = settle(given, self._format, raw, layouts=self.distiller.capture.layouts)
            arrange = partial(settled_logits, given, self._format, raw)
            self._evaluator.update((stage, dataloader_idx, batch_idx), outputs.logits, data, arrange=arrange)

    def _watched_student(self, data: Batch) -> AbstractContextManager[None]:
        """Refuse a student that changes meanwhile what is read after it."""
        return self.distiller.guard.student_on(type(self.student).__name__, data, self._teacher is not None)

    def on_validation_start(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._evaluator.forget()

    def on_test_start(self) -> None:
        self._evaluator.forget()

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        figures = self._evaluator.finish(stage, sanity=self.trainer.sanity_checking)
        shown = f"{stage}/{MAIN_FIGURES.get(self.task, 'accuracy/student')}"
        for name, value in figures.items():
            self.log(name, value, prog_bar=name == shown, sync_dist=True)
        if shown in figures:
            # The column that TensorBoard's HPARAMS tab shows beside the hyper-parameters.
            self.log("hp_metric", figures[shown], sync_dist=True)

    def _unpack(self, batch: Any) -> Batch:
        return self._reader.read(batch)

    def _unpack_training(self, batch: Any) -> Batch:
        return join(batch, self._reader) if self._several_loaders else self._reader.read(batch)

    # Before the first batch ----------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Have the projectors made before any other callback's setup: weight averaging copies the module there."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, Throughput) for callback in callbacks):
            callbacks.insert(0, Throughput())
        if not any(isinstance(callback, FirstCallback) for callback in callbacks):
            callbacks.insert(0, FirstCallback())
        return []

    def setup(self, stage: str) -> None:
        guard(self.trainer)
        if stage == "fit" and not self._dry_run_done:
            self.dry_run_on_data()

    def dry_run_on_data(self) -> None:
        """Look at two training samples, or at a batch where two do not do: size projectors, find what would fail later."""
        self._dry_run_done = True
        refuse_empty(self.trainer, self.student, self.teacher)
        check_networks(self.student, self.teacher)
        data = training_data(self.trainer)
        self._several_loaders = data.several
        try:
            self._look_at(data.example())
        except Exception:  # of a network or a collate function that wants a whole batch
            self._look_at(data.example(whole=True))

    def _look_at(self, batch: Any) -> None:
        if batch is None:  # a stream that goes on from a checkpoint, which has the shapes
            return
        weights = first_parameter(self.student)
        with unchanged(*networks_of(self.trainer, self)):
            moved = in_weights_type(self.trainer, on_device(self.trainer, self, batch, weights.device), weights)
        read = describe(moved, self._reader, self._several_loaders)
        data = self._unpack_training(moved)
        try:
            with training_step_context(self.trainer):
                self.dry_run(data, read)
        except (RuntimeError, ValueError) as error:
            why = explain_input_type(error.__cause__ or error, data.inputs, weights)
            if why is not None:
                raise ValueError(why) from error
            raise

    def dry_run(self, data: Batch, read: Sequence[str] = ()) -> None:
        """Run an example through both networks and the criteria; nothing is trained.

        Args:
            data: The example.
            read: Lines that say what was read of the batch, to print.

        Raises:
            ValueError: The networks, the criteria and the data do not fit; the message says which and why.
        """
        networks = [self.student, *([self._teacher.model] if self._teacher is not None else [])]
        with unchanged(*networks), torch.enable_grad():
            self.student.train()
            with comparing_values(), self._watched_student(data):
                student = self.distiller.capture.dry_run(data.inputs)
            module = self if self._trainer is not None else None
            DryRun(self.distiller).run(student, data, module, read, later=unfreezes_later(self._trainer, self))

    def check_lone_batches(self, batch: Any) -> None:
        """Refuse batches of one sample that BatchNorm cannot train on, before the first batch of a fit.

        Args:
            batch: The first one.
        """
        if self._seen_batches is not None:
            return
        self._seen_batches = lone_batch(self.trainer) or ""
        if self._seen_batches:
            DryRun(self.distiller).refuse_lone_batch(self._seen_batches, self._unpack_training(batch))

    def on_fit_start(self) -> None:
        self._seen_batches = None
        self._dry_run_done = False
        self._evaluator.forget()
        if not self.student.training:  # as `from_pretrained` returns it
            self.student.train()
        checks.optimizers_hold_everything(self, self.trainer.optimizers)
        chosen = self.optimization.told or "configure_optimizers" in vars(self)  # the latter by a config
        tell_passed_over(self.student, self.trainer.optimizers, chosen)
        twice = splits_gradients(self.trainer)
        self._acceleration.start(self.student, self._teacher, self.device, str(self.trainer.precision), not twice)
        self.distiller.on_fit_start(self.trainer, self, self._unpack_training)
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
        """Leave both networks as plain modules, as after every run: no hooks, not compiled, in their own layout."""
        self._acceleration.stop(self.student)
        self.distiller.release()

    def _read_inputs(self, batch: Any) -> Inputs:
        return self._unpack_training(on_device(self.trainer, self, batch, self.device)).for_teacher

    def configure_optimizers(self) -> Any:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.optimization.configure(trainable, self._trainer)

    # Checkpoints and devices ---------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.distiller.note.write(checkpoint, self.criteria, alone=self.trainer.interrupted)
        make_scalars_plain(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        with naming_file(self._trainer.ckpt_path if self._trainer is not None else None):
            self.distiller.note.read(checkpoint, self.criteria)
        if self._trainer is None:
            return
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        tell_changes(self.hparams, checkpoint, self.distiller.note, fitting)
        if fitting:
            with naming_file(self.trainer.ckpt_path):
                self.distiller.note.restore_rng(self.trainer, last=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationModule:
        self.distiller.move(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
