"""The code that ``DistillationModule`` and ``Distill`` share: from a batch, through both networks, to the loss and its logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, BatchFormat, Inputs
from lit_distill.batch.positions import input_mask, settle
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.untouched import Guard
from lit_distill.capture.capture import Capture, is_compiled
from lit_distill.capture.formats import refuse_fixed_mode, refuse_layers_in_a_graph
from lit_distill.engine import checks
from lit_distill.engine.checkpoint import CheckpointEntry
from lit_distill.engine.fit_length import warn_of_late_schedules
from lit_distill.engine.step import Losses, Sides, StepLoss
from lit_distill.engine.task_gradient import check_apart, hold_task_gradient, splits_gradients
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.teachers import Teacher, as_teacher
from lit_distill.teachers.steadiness import NetworkState, state_of, warn_of_changed_teacher
from lit_distill.utils.compiling import steps_are_compiled
from lit_distill.utils.measuring import EagerSteps, kept_buffers, warn_of_eager_steps
from lit_distill.utils.names import hook_key


class Distiller:
    """Holds a student, a teacher and weighted criteria together; the LightningModule owns those that train.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen; a ``Teacher``; or None.
        criteria: The criteria that compare the two.
        batch_format: Names of the entries in dict batches and outputs.

    Raises:
        ValueError: A layer is unknown, the two networks share parameters, or a criterion needs a teacher and there is none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | None,
        criteria: WeightedCriteria,
        batch_format: BatchFormat,
    ) -> None:
        refuse_fixed_mode(student, "student")
        refuse_layers_in_a_graph(
            student, "student", [n for n, one in criteria.innermost().items() if one.student_layers]
        )
        self.student = student
        self.criteria = criteria
        self.format = batch_format
        self.teacher = as_teacher(teacher).for_student(student) if teacher is not None else None
        if self.teacher is None:
            checks.no_teacher_needed(criteria)
        else:
            self.teacher.set_student(student)
            checks.separate_networks(student, self.teacher.model)
        self.capture = Capture(
            student,
            criteria.student_layers,
            batch_format.output_key,
            "student",
            batch_format.layout,
            batch_format.class_dim,
        )
        if self.teacher is not None:
            self.teacher.capture_layers(criteria.teacher_layers, batch_format)
        self.checkpoint_entry = CheckpointEntry()
        self.guard = Guard()
        self._at_start: NetworkState | None = None
        self.eager_steps = EagerSteps()
        self._splits = False  # DOT trains
        self._step_losses: list[Losses] = []  # of the present step, for DOT

    def capture_layers(self) -> None:
        """Capture the layers that the criteria read now, which may be others than before."""
        self.capture.set_layers(self.criteria.student_layers)
        if self.teacher is not None:
            self.teacher.capture_layers(self.criteria.teacher_layers, self.format)

    def read_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Read our entry in a checkpoint: the criteria's layers and sizes.

        Raises:
            ValueError: The checkpoint is not of this distillation, or is damaged.
        """
        if self.checkpoint_entry.read(checkpoint, self.criteria):
            ran = [capture.layouts.known for capture in self.captures().values()]
            self.capture_layers()
            for capture, known in zip(self.captures().values(), ran, strict=True):
                capture.overwritten.update(
                    map(hook_key, capture.layers)
                )  # perhaps: no dry run of these layers will follow
                if not known:  # not in a fit
                    capture.remove()

    @property
    def reads_labels(self) -> bool:
        """True if a criterion, the teacher itself or the batch format reads labels."""
        return labels_are_read(self.criteria, self.teacher, self.format)

    def reader(self, numbers: bool = False) -> BatchReader:
        """Make the reader of batches for the two networks."""
        teacher = self.teacher.network if self.teacher is not None else None
        return BatchReader(self.format, self.student, teacher, self.reads_labels, numbers=numbers)

    @property
    def registered_teacher(self) -> nn.Module | None:
        """The teacher's network if it changes in training, and so belongs to the LightningModule; else None."""
        return self.teacher.registered if self.teacher is not None else None

    # One batch -----------------------------------------------------------------------------------

    def run(self, data: Batch, within: AbstractContextManager[None] | None = None) -> Sides:
        """Run both networks on a training batch, the student first.

        Args:
            data: The batch.
            within: Context of the student's forward pass.

        Raises:
            ValueError: A network changes what the other, or the criteria, read of the batch.
        """
        if self.teacher is not None:
            self.teacher.prefetch(data.for_teacher, input_mask(data))
        eagerly = self.eager_steps.eagerly() if self.eager_steps.active else nullcontext()
        with self.guarded_student(data), within or nullcontext(), eagerly:
            student = self.capture.run(data.inputs, need_grad=True)
        return self.sides(student, self.run_teacher(data), data)

    def guarded_student(self, data: Batch) -> AbstractContextManager[None]:
        """Refuse a student that changes, in the block, what is read after it."""
        read_next = data.for_teacher if self.teacher is not None else None
        return self.guard.running(f"the student {type(self.student).__name__}", data, read_next)

    def run_teacher(self, data: Batch) -> Outputs:
        """Run the teacher on a training batch, after the student.

        Raises:
            ValueError: The teacher changes what the student or the criteria read of the batch.
        """
        if self.teacher is None:
            return Outputs.nothing()
        with self.guard.running(f"the teacher {self.teacher.name}", data, data.inputs, written=True):
            return self.teacher(data.for_teacher, input_mask(data))

    def sides(self, student: Outputs, teacher: Outputs, data: Batch) -> Sides:
        """Bring both networks' outputs and the labels to the positions that count."""
        data, student, settled = settle(data, self.format, student, teacher, self.capture.layouts)
        assert settled is not None
        parameters: Sequence[nn.Parameter] = ()
        if self.criteria.balance is not None:
            mine = set(map(id, self.criteria.parameters()))  # inside the student if that is a whole LightningModule
            parameters = [p for p in self.student.parameters() if p.requires_grad and id(p) not in mine]
        if self.teacher is None:
            return Sides(student, settled, data.target, parameters)
        own = self.teacher.own_loss(settled, data.target)
        return Sides(student, settled if self.teacher.follows else settled.detach(), data.target, parameters, own)

    @contextmanager
    def repeated_backward(self) -> Iterator[None]:
        """Run the criteria eagerly in the block, if this step is differentiated more than once."""
        if not self.eager_steps.active:
            yield
            return
        with self.eager_steps.eagerly(), kept_buffers(self.student, but=self.criteria):
            yield

    def step_loss(self, losses: Losses, sides: Sides) -> StepLoss:
        """Add the teacher's own loss to the criteria's."""
        if self._splits:
            self._step_losses.append(losses)
        own = sides.own_loss
        return StepLoss(losses, own, losses.total if own is None else losses.total + own)

    def on_before_backward(self, trainer: Trainer) -> None:
        """Hand the task's gradient of the step to ``DOT``, if it trains."""
        if self._splits:
            losses, self._step_losses = self._step_losses, []
            with kept_buffers(self.student, but=self.criteria):
                hold_task_gradient(trainer, self.criteria, losses)

    def logs(self, loss: StepLoss) -> dict[str, Tensor | float]:
        """Return what to log of a batch as well as its total loss."""
        logs = loss.losses.named()
        del logs["loss"]
        for name, criterion in self.criteria.criteria().items():
            temperature = criterion.temperature
            if isinstance(temperature, (int, float)):
                logs[f"temperature/{name}"] = float(temperature)
        if loss.own is not None:
            logs["teacher_loss"] = loss.own.detach()
        return logs

    # A run ---------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by owner, ``student`` and ``teacher``."""
        return {owner: capture.model for owner, capture in self.captures().items()}

    def captures(self) -> dict[str, Capture]:
        """Return the captures by owner, ``student`` and ``teacher``."""
        captures = {"student": self.capture}
        if self.teacher is not None:
            captures["teacher"] = self.teacher.capture
        return captures

    def on_fit_start(self, trainer: Trainer, module: LightningModule, unpack: Callable[[Any], Batch]) -> None:
        """Called at the start of a fit, before its training loader is made.

        Raises:
            ValueError: The criteria or the teacher have trained in another module, or the processes' teachers differ.
        """
        if trainer.fit_loop._combined_loader is None:
            self.checkpoint_entry.restore_rng(trainer, last=True)
        else:  # the iterator over the training data exists, made with the states restored when the checkpoint was read
            self.checkpoint_entry.forget_rng()
        check_apart(trainer, self.criteria)
        checks.whole_gradients(trainer, self.criteria.balance)
        checks.warn_of_long_steps(trainer, self.criteria)
        owner = self.criteria.reuse_guard
        owner.claim(self.criteria.parts())
        self._splits = splits_gradients(trainer)
        if self._splits and (is_compiled(self.student) or steps_are_compiled(module)):
            warn_of_eager_steps()
        if self.teacher is not None:
            self._at_start = state_of(self.teacher.model)
            checks.same_on_every_rank(module, self._at_start.digest)
            self.teacher.set_owner(owner.token, resumed=owner.loaded)
            self.teacher.on_fit_start(trainer, unpack)

    def on_train_start(self, trainer: Trainer, read: Callable[[Any], Inputs]) -> None:
        """Called before the first training batch, when the training loader is ready."""
        warn_of_late_schedules(trainer, self.criteria.schedules)
        if self.teacher is not None:
            self.teacher.on_train_start(trainer, read)

    def on_train_batch_start(self, trainer: Trainer, batch_idx: int) -> None:
        """Called before each training batch."""
        self.criteria.advance(trainer.global_step, epochs_done(trainer, batch_idx))
        balance, weights = self.criteria.balance, self.criteria.in_force()
        due = balance is not None and balance.measures([name for name, weight in weights.items() if weight])
        self._step_losses = []
        self.eager_steps.begin(due or self._splits, steps_are_compiled(trainer.lightning_module))
        if self.teacher is not None:
            self.teacher.on_train_batch_start()

    def on_train_batch_end(self, trainer: Trainer) -> None:
        """Called after each training batch."""
        self.eager_steps.end()
        if self.teacher is not None:
            self.teacher.on_train_batch_end(self.student, trainer.global_step)

    def on_fit_end(self) -> None:
        """Called at the end of a fit: warn if the frozen teacher has changed."""
        teacher = self.teacher
        if teacher is not None and teacher.frozen and self._at_start is not None:
            warn_of_changed_teacher(teacher.model, self._at_start)
        self.release()

    def release(self) -> None:
        """End a run: remove all hooks, so that both networks are plain modules."""
        self.eager_steps.end()
        self.capture.remove()
        self.guard.forget()
        self._at_start, self._splits, self._step_losses = None, False, []
        if self.teacher is not None:
            self.teacher.on_fit_end()
            self.teacher.capture.remove()

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move a teacher that is not a submodule with the module."""
        if self.teacher is not None:
            self.teacher.apply(fn)


def labels_are_read(criteria: WeightedCriteria, teacher: object, format_: BatchFormat) -> bool:
    """Return True if a criterion or the teacher learns from labels, or labels say which positions count or how many."""
    learns = isinstance(teacher, Teacher) and teacher.needs_target
    of_criteria = any(criterion.needs_target for criterion in criteria.criteria().values())
    return of_criteria or learns or format_.mask_from_labels or format_.resize_logits


def epochs_done(trainer: Trainer, batch_idx: int) -> float:
    """Return the epochs trained so far, with the fraction of the current one if its length is known."""
    batches = trainer.num_training_batches
    return trainer.current_epoch + (batch_idx / batches if batches and math.isfinite(batches) else 0.0)
