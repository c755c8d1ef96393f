"""The engine of every distillation: from two networks' outputs for a batch to the loss and what is logged of it.

A module that is a distillation and a callback that adds one to another module both hand their batches to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_distill import checks
from lit_distill.batch import Batch, BatchFormat, Inputs, Target, call_model, count_samples
from lit_distill.capture import Capture, is_compiled
from lit_distill.checkpoint import CheckpointNote
from lit_distill.compiling import steps_are_compiled
from lit_distill.criteria import LogitMSE
from lit_distill.finiteness import example_is_finite
from lit_distill.formats import refuse_fixed_mode
from lit_distill.labels import CLASS_TASKS
from lit_distill.late_schedules import tell_of_late
from lit_distill.measuring import Measured, kept_buffers, tell_of_eager_steps
from lit_distill.misreadings import tell_of_other_tasks, tell_of_unread_weights
from lit_distill.optim import check_apart, hold_task_gradient, splits_gradients
from lit_distill.outputs import Outputs
from lit_distill.ownership import widths
from lit_distill.positions import input_mask, settle
from lit_distill.preflight.gradients import reaches_student
from lit_distill.preflight.lone_batches import refuse_lone_batch
from lit_distill.preflight.networks import check_logits, check_networks
from lit_distill.preflight.probabilities import tell_of_logarithms, tell_of_probabilities
from lit_distill.probe import unchanged
from lit_distill.reading import BatchReader
from lit_distill.teachers import FrozenTeacher, Teacher, as_teacher
from lit_distill.teachers.steadiness import NetworkState, ask_steady, state_of, tell_of_changes
from lit_distill.untouched import Guard, looking_closely, read_after_student
from lit_distill.weighted import Losses, WeightedCriteria


@dataclass(frozen=True)
class Comparison:
    """What a batch cost.

    Attributes:
        losses: The criteria's.
        own: The teacher's own loss, where it trains too.
    """

    losses: Losses
    own: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The loss to train with, a scalar."""
        return self.losses.total if self.own is None else self.losses.total + self.own


class Distiller:
    """Holds a student, a teacher and weighted criteria together; the LightningModule owns what of them trains.

    Args:
        student: The network to train.
        teacher: A network, which is then frozen; or a ``Teacher``; or None.
        criteria: What compares the two.
        batch_format: Names of the entries in the networks' dict outputs.

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
        self.student = student
        self.criteria = criteria
        self.format = batch_format
        self.teacher = as_teacher(teacher).serving(student) if teacher is not None else None
        if self.teacher is None:
            checks.no_teacher_needed(criteria)
        else:
            self.teacher.bind(student)
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
            self.teacher.observe(criteria.teacher_layers, batch_format)
        self.note = CheckpointNote()
        self.guard = Guard()
        self._at_start: NetworkState | None = None
        self.measured = Measured()

    @property
    def reads_labels(self) -> bool:
        """Whether a criterion, the teacher itself or the batch format reads labels."""
        return labels_are_read(self.criteria, self.teacher, self.format)

    def reader(self, numbers: bool = False) -> BatchReader:
        """What takes batches apart for the two networks.

        Args:
            numbers: Labels are numbers, and no classes or probabilities.
        """
        teacher = self.teacher.network if self.teacher is not None else None
        return BatchReader(self.format, self.student, teacher, self.reads_labels, numbers=numbers)

    @property
    def registered_teacher(self) -> nn.Module | None:
        """The teacher's network where it changes in training, and so belongs to the LightningModule."""
        return self.teacher.registered if self.teacher is not None else None

    # One batch -----------------------------------------------------------------------------------

    def ask(self, data: Batch) -> Callable[[], Outputs]:
        """Ask the teacher about a batch; what is returned gives its outputs once the student has run.

        That raises a ValueError where one of the two has changed what the other, or the criteria, read of the batch.
        """
        watch = self.guard.watch(read_after_student(data, self.teacher is not None))
        given = self.teacher.ask(data.for_teacher, input_mask(data)) if self.teacher is not None else Outputs.nothing

        def answer() -> Outputs:
            self.guard.check_student(watch, type(self.student).__name__)
            with self._watched_teacher(data):
                return given()

        return answer

    def _watched_teacher(self, data: Batch) -> AbstractContextManager[None]:
        return (
            self.guard.teacher_on(type(self.teacher.model).__name__, data, training=True)
            if self.teacher is not None
            else nullcontext()
        )

    def compare(self, student: Outputs, teacher: Outputs, data: Batch) -> Comparison:
        """Weigh the criteria for a batch's outputs, at the positions that count."""
        settled = self._settle(student, teacher, data)
        if not self.measured.now:
            return self._weigh(*settled)
        with self.measured.eagerly(), kept_buffers(self.student, but=self.criteria):
            return self._weigh(*settled)

    def hold_task_gradient(self, trainer: Trainer, losses: Sequence[Losses]) -> None:
        """Hand a batch's task gradient to an optimizer that wants it apart; see ``optim.hold_task_gradient``."""
        if not splits_gradients(trainer):
            return
        with kept_buffers(self.student, but=self.criteria):
            hold_task_gradient(trainer, self.criteria, losses)

    def _settle(self, student: Outputs, teacher: Outputs, data: Batch) -> tuple[Outputs, Outputs, Target | None]:
        """Both networks' outputs at the positions that count, and their labels."""
        data, student, settled = settle(data, self.format, student, teacher, self.capture.layouts)
        assert settled is not None
        return student, settled, data.target

    def _weigh(self, student: Outputs, teacher: Outputs, target: Target | None) -> Comparison:
        parameters = None
        if self.criteria.balance is not None:
            mine = set(map(id, self.criteria.parameters()))  # inside the student where that is a whole LightningModule
            parameters = [p for p in self.student.parameters() if p.requires_grad and id(p) not in mine]
        if self.teacher is None:
            return Comparison(self.criteria(student, teacher, target, parameters))
        own = self.teacher.own_loss(teacher, target)
        seen = teacher if self.teacher.follows else teacher.detach()
        return Comparison(self.criteria(student, seen, target, parameters), own)

    def figures(self, comparison: Comparison) -> dict[str, Tensor | float]:
        """What to log of a batch beside its total."""
        logs = comparison.losses.named()
        del logs["loss"]
        for name, criterion in self.criteria.criteria().items():
            temperature = getattr(criterion, "temperature", None)
            if isinstance(temperature, (int, float)):
                logs[f"temperature/{name}"] = float(temperature)
        if comparison.own is not None:
            logs["teacher_loss"] = comparison.own.detach()
        return logs

    # Before the first batch ----------------------------------------------------------------------

    def rehearse(
        self,
        student: Outputs,
        data: Batch,
        module: LightningModule | None = None,
        read: Sequence[str] = (),
        labels: Target | None = None,
        heard: nn.Module | None = None,
        later: bool = False,
    ) -> None:
        """Put an example through the teacher and the criteria; nothing is trained.

        The criteria size their layers. With gradients on, each criterion that trains must reach the student.

        Args:
            student: The student's outputs for the example.
            data: The example.
            module: What will train; given, what no criterion trains is said, or refused where DDP will wait for it.
            read: Lines that say what was read of the batch.
            labels: The example's labels where no criterion reads them; those of ``data`` if None.
            heard: What made the student's outputs, where that is a copy of the student.
            later: What is frozen now may be trained later.

        Raises:
            ValueError: The networks, the criteria and the data do not fit; the message says which and why.
        """
        check_networks(self.student, asked.model if (asked := self.teacher) is not None else None)
        self.criteria.advance(0, 0.0)  # a fit before may have left it at its schedules' end
        self.note.remember_settings(self.criteria, asked)
        if count_samples(data.inputs) == 0:
            raise ValueError(
                "the first training batch is empty: its tensors have 0 samples; look at the collate function."
            )
        teacher = Outputs.nothing()
        if asked is not None:
            with looking_closely(), self._watched_teacher(data):
                teacher = self._ask_first(asked, data)
        self.note.check_shapes(student, teacher)
        self.criteria.build(student, teacher)
        self.criteria.ownership.mark(self.criteria.parts(), [widths(student), widths(teacher)])
        self.criteria.to(student.device)
        with unchanged(self.criteria):
            self.criteria.eval()
            of_student, of_teacher, target = self._settle(student, teacher, data)
            for owner, outputs in (("student", of_student), ("teacher", of_teacher)):
                check_logits(owner, outputs, self.criteria.criteria().values())
            with looking_closely():
                comparison = self._weigh(of_student, of_teacher, target)
            self._check_example(comparison.losses, data, (of_student, of_teacher, target), heard or self.student, later)
        if asked is not None:
            asked.needs_logits = not asked.frozen or checks.logits_are_read(
                self.criteria, of_student, of_teacher, target
            )
            squashed = [who for who, capture in self._captures().items() if capture.layouts.squashed]
            if self._compares_scores():
                tell_of_probabilities(of_student, of_teacher, squashed)
            tell_of_logarithms(of_student, of_teacher, self.criteria, target)
        tell_of_other_tasks(self.criteria, of_student, target if target is not None else labels)
        tell_of_unread_weights(self.criteria, self.format)
        if module is not None:
            checks.every_parameter_reached(comparison.total, module, self.criteria)
        self.note.remember_shapes(student, teacher)
        self.note.remember_reading(read)
        lines = [checks.summary(self.student, self.teacher, self.criteria, student, teacher), *read, *self._layouts()]
        rank_zero_info("\n".join(lines))

    @staticmethod
    def _ask_first(teacher: Teacher, data: Batch) -> Outputs:
        def ask() -> Outputs:
            return teacher(data.for_teacher, input_mask(data), calibrate=True)

        return ask_steady(teacher.model, ask) if isinstance(teacher, FrozenTeacher) else ask()

    def _check_example(
        self,
        losses: Losses,
        data: Batch,
        outputs: tuple[Outputs, Outputs, Target | None],
        heard: nn.Module,
        later: bool,
    ) -> None:
        """Refuse criteria that an example shows to be no numbers, or to train nothing."""
        student, teacher, target = outputs
        networks = {"student": (heard, student)}
        if self.teacher is not None:
            networks["teacher"] = (self.teacher.model, teacher)
        criteria = self.criteria.criteria()
        values = {name: value for name, value in losses.raw.items() if self.criteria.trains(name)}
        example_is_finite(values, criteria, data, networks, target)
        partly = any(not parameter.requires_grad for parameter in heard.parameters())
        self.capture.gradients_expected = not (later and partly)
        if torch.is_grad_enabled() and self.capture.gradients_expected:
            terms = losses.terms | self.criteria.waiting(student, teacher, target)
            reaches_student(terms, criteria, heard, student)

    def refuse_lone_batch(self, why: str, data: Batch) -> None:
        """Refuse batches of one sample where a BatchNorm that trains cannot take one.

        Args:
            why: How they come about.
            data: A batch.

        Raises:
            ValueError: One cannot.
        """
        given = {"student": (self.student, data.inputs)}
        if self.registered_teacher is not None:
            given["teacher"] = (self.registered_teacher, data.for_teacher)
        for owner, (network, inputs) in given.items():
            refuse_lone_batch(why, f"the {owner}", network, inputs, partial(call_model, network))
        refuse_lone_batch(why, "the criteria", self.criteria, data, self._weigh_alone)

    def _weigh_alone(self, data: Batch) -> None:
        with unchanged(self.student, *([self.teacher.model] if self.teacher is not None else [])):
            teacher = (
                self.teacher(data.for_teacher, input_mask(data)) if self.teacher is not None else Outputs.nothing()
            )
            self._weigh(*self._settle(self.capture.run(data.inputs), teacher, data))

    def networks(self) -> dict[str, nn.Module]:
        """Both networks, by whose they are."""
        return {owner: capture.model for owner, capture in self._captures().items()}

    def _compares_scores(self) -> bool:
        """Whether a criterion takes the logits as scores of classes."""
        for criterion in self.criteria.criteria().values():
            task = checks.task_of(criterion)
            reads = criterion.compares_logits or criterion.needs_target
            if reads and (task in CLASS_TASKS if task is not None else not isinstance(criterion, LogitMSE)):
                return True
        return False

    def _captures(self) -> dict[str, Capture]:
        """What reads each network, by whose it is."""
        captures = {"student": self.capture}
        if self.teacher is not None:
            captures["teacher"] = self.teacher.capture
        return captures

    def _layouts(self) -> list[str]:
        """What is unusual of the layouts that were found, in lines to print."""
        lines = []
        for who, capture in self._captures().items():
            for layer in (None, *capture.layers):
                words = capture.layouts.words(layer)
                if words:
                    lines.append(f"Layout: the {who}'s {f'layer {layer!r}' if layer else 'logits'}: {words}.")
        return lines

    def start(self, trainer: Trainer, module: LightningModule, unpack: Callable[[Any], Batch]) -> None:
        """Begin a fit, before its training loader is made.

        Raises:
            ValueError: The criteria or the teacher have trained in another module, or the processes' teachers differ.
        """
        if trainer.fit_loop._combined_loader is None:
            self.note.restore_rng(trainer, last=True)
        else:  # the iterator over the training data has been made, from the states put back as the checkpoint was read
            self.note.forget_rng()
        check_apart(trainer, self.criteria)
        owner = self.criteria.ownership
        owner.take(self.criteria.parts())
        if splits_gradients(trainer) and (is_compiled(self.student) or steps_are_compiled(module)):
            tell_of_eager_steps()
        if self.teacher is not None:
            self._at_start = state_of(self.teacher.model)
            checks.same_on_every_rank(module, self._at_start.digest)
            if not owner.loaded:
                self.teacher.check_owner(owner.token)
            self.teacher.trained_in = owner.token
            self.teacher.attach(trainer, unpack)

    def prepare(self, trainer: Trainer, read: Callable[[Any], Inputs]) -> None:
        """Make ready what needs training batches, before the first one."""
        tell_of_late(trainer, self.criteria.schedules)
        if self.teacher is not None:
            self.teacher.prepare(trainer, read)

    def begin_batch(self, trainer: Trainer, batch_idx: int) -> None:
        """Be told that a training batch begins."""
        self.criteria.advance(trainer.global_step, epochs_done(trainer, batch_idx))
        balance, weights = self.criteria.balance, self.criteria.weights
        due = balance is not None and balance.measures([name for name, weight in weights.items() if weight])
        self.measured.begin(due or splits_gradients(trainer), steps_are_compiled(trainer.lightning_module))
        if self.teacher is not None:
            self.teacher.begin_batch()

    def end_batch(self, trainer: Trainer) -> None:
        """Be told that a training batch ended."""
        self.measured.end()
        if self.teacher is not None:
            self.teacher.end_batch(self.student, trainer.global_step)

    def finish(self) -> None:
        """End a fit that reached its end: say so where the frozen teacher is not what it was."""
        teacher = self.teacher
        if teacher is not None and teacher.frozen and self._at_start is not None:
            tell_of_changes(teacher.model, self._at_start)
        self.stop()

    def stop(self) -> None:
        """End a run: both networks are plain modules, until they are used again."""
        self.measured.end()
        self.capture.remove()
        self.guard.forget()
        self._at_start = None
        if self.teacher is not None:
            self.teacher.detach()
            self.teacher.capture.remove()

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Have a teacher that is no submodule follow the module to another device."""
        if self.teacher is not None:
            self.teacher.apply(fn)


def labels_are_read(criteria: WeightedCriteria, teacher: object, format_: BatchFormat) -> bool:
    """Whether a criterion or the teacher learns from labels, or labels say which positions count, or how many there are.

    Args:
        criteria: The criteria.
        teacher: The teacher, or the network that will be one.
        format_: What the user told of batches.
    """
    learns = isinstance(teacher, Teacher) and teacher.needs_target
    of_criteria = any(criterion.needs_target for criterion in criteria.criteria().values())
    return of_criteria or learns or format_.mask_from_labels or format_.resize_logits


def epochs_done(trainer: Trainer, batch_idx: int) -> float:
    """Epochs trained so far, with the share of the current one; whole epochs alone where its length is unknown."""
    batches = trainer.num_training_batches
    return trainer.current_epoch + (batch_idx / batches if batches and math.isfinite(batches) else 0.0)
