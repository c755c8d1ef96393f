"""The base of every distillation: one batch flows one way through it.

batch -> student and teacher outputs -> criteria -> weighted sum -> logs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_distill.batch import Batch, BatchFormat, Inputs, call_model, move, unpack
from lit_distill.callbacks import Throughput, is_logging_step
from lit_distill.capture import Capture
from lit_distill.criteria import Criterion
from lit_distill.criteria.base import TASKS, Task, check_choice
from lit_distill.modules import checks
from lit_distill.modules.acceleration import Acceleration
from lit_distill.modules.checkpoint import CheckpointNote
from lit_distill.modules.evaluator import Evaluator
from lit_distill.modules.hyperparameters import class_name, describe_criteria, record_hyperparameters
from lit_distill.outputs import Outputs, read_logits
from lit_distill.probe import as_in_evaluation, example_batch
from lit_distill.teachers import Teacher, as_teacher
from lit_distill.tensorboard import add_comparison_charts
from lit_distill.weighted import Losses, WeightedCriteria

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class LookAhead(Callback):
    """Runs a distillation's look ahead; stands first among the trainer's callbacks."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(pl_module, DistillationModule):
            pl_module.look_ahead()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if isinstance(pl_module, DistillationModule) and pl_module._teacher is not None:
            pl_module._teacher.begin_batch()


class DistillationModule(LightningModule):
    """A student, a teacher and a weighted set of named criteria. All else is Lightning's.

    A frozen teacher is no submodule: it is in no optimizer and no checkpoint, yet follows the device. The
    student is ``module.student``; projectors live in ``module.criteria``.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen; or a ``Teacher``; or None.
        criteria: Criteria by name.
        weights: A weight for each criterion.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        optimizer: Makes the optimizer of the trainable parameters; AdamW at 1e-3 where None. A top-level
            ``optimizer`` of a config comes before it.
        lr_scheduler: Makes the scheduler, stepped every epoch.
        batch_format: Names of the entries in dict batches and outputs.
        fast: Train with what is quickest on the device: the student compiled, a frozen teacher without a runtime of
            its own in the best one (int8 or bf16 where the hardware has it). Evaluation stays as it is.

    Raises:
        ValueError: A layer is unknown, a weight is wrong, or the two networks share parameters.
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
    ) -> None:
        super().__init__()
        check_choice("task", task, TASKS)
        checks.same_task(criteria, task)
        self.task: Task = task
        self.student = student
        self.criteria = WeightedCriteria(criteria, weights)
        if teacher is not None:
            checks.separate_networks(student, teacher.model if isinstance(teacher, Teacher) else teacher)
        self._teacher = as_teacher(teacher) if teacher is not None else None
        self.joint_teacher = self._teacher.trained if self._teacher is not None else None
        self._format = batch_format or BatchFormat()
        self._capture = Capture(student, self.criteria.student_layers, self._format.output_key, "student")
        if self._teacher is not None:
            self._teacher.observe(self.criteria.teacher_layers, self._format.output_key)
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._note = CheckpointNote()
        self._acceleration = Acceleration(fast)
        self._looked_ahead = False
        self._evaluator = Evaluator(task, self._teacher)
        plain = {
            "task": task,
            "fast": fast,
            "weights": dict(self.criteria.weights),
            "student_class": class_name(student),
            "teacher_class": class_name(self._teacher.model) if self._teacher else "none",
            "criteria_settings": describe_criteria(criteria),
        }
        record_hyperparameters(self, plain)

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher's network, frozen or training, or None."""
        return self._teacher.model if self._teacher is not None else None

    def forward(self, inputs: Inputs) -> Any:
        """What the student alone returns."""
        with self._acceleration.evaluation(), self._capture.muted():
            return call_model(self.student, inputs)

    # One batch -----------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        data = self._unpack(batch)
        answer = self._teacher.ask(data.inputs, data.mask) if self._teacher is not None else Outputs.nothing
        with self._acceleration.training(data.size):
            student = self._capture.run(data.inputs, data.mask, need_grad=True)
        losses, own = self._compare(student, answer(), data.target)
        total = losses.total if own is None else losses.total + own
        checks.finite(total, losses, own, self.global_step)
        self._log_training(losses, own, total, data.size)
        return total

    def _compare(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> tuple[Losses, Tensor | None]:
        """The criteria's losses, and the teacher's own where it trains too."""
        if self._teacher is None:
            return self.criteria(student, teacher, target), None
        own = self._teacher.own_loss(teacher, target)
        return self.criteria(student, teacher if self._teacher.follows else teacher.detach(), target), own

    def _log_training(self, losses: Losses, own: Tensor | None, total: Tensor, size: int) -> None:
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        if not (is_logging_step(self.trainer) or self.trainer.should_stop):
            return  # Lightning takes 0.4 ms for each figure, and drops them at other steps
        logs = losses.named()
        del logs["loss"]
        for name, criterion in self.criteria.items():
            temperature = getattr(criterion, "temperature", None)
            if isinstance(temperature, (int, float)):
                logs[f"temperature/{name}"] = float(temperature)
        if own is not None:
            logs["teacher_loss"] = own.detach()
        if self.trainer.optimizers:
            logs["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict({f"train/{name}": value for name, value in logs.items()}, batch_size=size)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """The student's output for a batch."""
        return self(self._unpack(batch).inputs)

    def _evaluate(self, stage: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        data = self._unpack(batch)
        student = read_logits(self(data.inputs), self._format.output_key)
        self._evaluator.update((stage, dataloader_idx, batch_idx), student, data)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        figures = self._evaluator.finish(stage, sanity=self.trainer.sanity_checking)
        shown = f"{stage}/accuracy/student"
        for name, value in figures.items():
            self.log(name, value, prog_bar=name == shown, sync_dist=True)
        if shown in figures:
            # The column that TensorBoard's HPARAMS tab shows beside the hyper-parameters.
            self.log("hp_metric", figures[shown], sync_dist=True)

    def _unpack(self, batch: Any) -> Batch:
        return unpack(batch, self._format.input_key, self._format.target_key)

    # Before the first batch ----------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Have the projectors made before any other callback's setup: weight averaging copies the module there."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, Throughput) for callback in callbacks):
            callbacks.insert(0, Throughput())
        if not any(isinstance(callback, LookAhead) for callback in callbacks):
            callbacks.insert(0, LookAhead())
        return []

    def setup(self, stage: str) -> None:
        if stage == "fit" and not self._looked_ahead:
            self.look_ahead()

    def look_ahead(self) -> None:
        """Look at two training samples: size the projectors, and find what would fail later."""
        batch = example_batch(self.trainer)
        parameter = next(iter(self.student.parameters()), torch.empty(0))
        self.dry_run(self._unpack(move(batch, parameter.device, parameter.dtype)))
        self._looked_ahead = True

    def dry_run(self, data: Batch) -> None:
        """Run an example through both networks and the criteria; nothing is trained.

        Raises:
            ValueError: The networks, the criteria and the data do not fit; the message says which and why.
        """
        distributed = self._trainer is not None and self.trainer.world_size > 1
        trained = [self.student, self.criteria, *([self.joint_teacher] if self.joint_teacher else [])]
        with as_in_evaluation(*trained), torch.set_grad_enabled(distributed):
            student = self._capture.run(data.inputs, data.mask, calibrate=True)
            asked = self._teacher
            teacher = asked(data.inputs, data.mask, calibrate=True) if asked is not None else Outputs.nothing()
            self._note.check_shapes(student, teacher)
            self.criteria.build(student, teacher)
            self.criteria.to(student.logits.device)
            losses, own = self._compare(student, teacher, data.target)
            if asked is not None:
                asked.needs_logits = not asked.frozen or checks.logits_are_read(
                    self.criteria, student, teacher, data.target
                )
            if distributed:
                checks.every_parameter_reached(losses.total if own is None else losses.total + own, self)
        self._note.remember_shapes(student, teacher)
        rank_zero_info(checks.summary(self.student, self._teacher, self.criteria, student, teacher))

    def on_fit_start(self) -> None:
        self._looked_ahead = False
        self._note.restore_rng()
        if not self.student.training:  # as `from_pretrained` returns it
            self.student.train()
        checks.optimizers_hold_everything(self, self.trainer.optimizers)
        self._acceleration.start(self.student, self._teacher, self.device, str(self.trainer.precision))
        if self._teacher is not None:
            checks.same_on_every_rank(self, self._teacher.model)
            self._teacher.attach(self.trainer, self._unpack)
        add_comparison_charts(self.loggers)

    def on_train_start(self) -> None:
        if self._teacher is not None:
            self._teacher.prepare(self.trainer, self._read_inputs)
        self._acceleration.report(self._teacher)

    def on_fit_end(self) -> None:
        self._acceleration.stop(self.student)
        if self._teacher is not None:
            self._teacher.detach()

    def _read_inputs(self, batch: Any) -> Inputs:
        batch = self.trainer.precision_plugin.convert_input(batch)
        return self._unpack(move(batch, self.device)).inputs

    def configure_optimizers(self) -> Any:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self._optimizer(trainable) if self._optimizer else torch.optim.AdamW(trainable, lr=1e-3)
        return optimizer if self._lr_scheduler is None else ([optimizer], [self._lr_scheduler(optimizer)])

    # Checkpoints and devices ---------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._note.write(checkpoint, self.criteria)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._note.read(checkpoint, self.criteria)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationModule:
        if self._teacher is not None:
            self._teacher.apply(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
