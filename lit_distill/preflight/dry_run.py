"""Runs an example through the teacher and the criteria before the first batch, and refuses what would fail later."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lit_distill.batch.batch import Batch, Target, call_model, count_samples
from lit_distill.batch.labels import CLASS_TASKS
from lit_distill.batch.positions import input_mask
from lit_distill.batch.snapshots import comparing_values
from lit_distill.criteria import LogitMSE
from lit_distill.engine import checks
from lit_distill.engine.auto_weights import AutoWeights
from lit_distill.engine.criterion_values import raise_named
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.finiteness import example_is_finite
from lit_distill.engine.reuse import widths
from lit_distill.engine.step import Losses, Sides, StepLoss
from lit_distill.outputs import Outputs
from lit_distill.preflight.auto_standardization import decide_standardization
from lit_distill.preflight.found_weights import weights_can_be_found
from lit_distill.preflight.gradients import reaches_student
from lit_distill.preflight.grids import refuse_sequences
from lit_distill.preflight.lone_batches import refuse_lone_batch
from lit_distill.preflight.misreadings import warn_of_other_tasks, warn_of_unread_weights
from lit_distill.preflight.networks import check_logits, check_networks, have_values
from lit_distill.preflight.probabilities import warn_of_logarithms, warn_of_probabilities
from lit_distill.teachers import FrozenTeacher
from lit_distill.teachers.base import check_outputs
from lit_distill.teachers.steadiness import ask_steady
from lit_distill.utils.restoring import unchanged


class DryRun:
    """Runs an example through a distillation; nothing is trained."""

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller
        self.student = distiller.student
        self.teacher = distiller.teacher
        self.criteria = distiller.criteria

    def run(
        self,
        student: Outputs,
        data: Batch,
        module: LightningModule | None = None,
        read: Sequence[str] = (),
        labels: Target | None = None,
        made_by: nn.Module | None = None,
        later: bool = False,
    ) -> None:
        """Compare the student's outputs with the teacher's by the criteria, which size their layers.

        With gradients on, each criterion that trains must reach the student. Networks, criteria and data that do not fit are
        refused.

        Args:
            student: The student's outputs for the example.
            data: The example.
            module: The module to train. If given, parameters that no criterion trains are reported, or refused if DDP would
                wait for them.
            read: Lines that describe how the batch was read.
            labels: The example's labels if no criterion reads them; if None, those of ``data``.
            made_by: The network that made the student's outputs, if it is a copy of the student.
            later: Parameters that are frozen now may be trained later.
        """
        entry = self.distiller.checkpoint_entry
        check_networks(self.student, self.teacher.model if self.teacher is not None else None)
        if count_samples(data.inputs) == 0:
            raise ValueError(
                "the first training batch is empty: its tensors have 0 samples; check the collate function."
            )
        self.criteria.advance(0, 0.0)  # an earlier fit may have left it at its schedules' end
        teacher = self._ask_teacher(data)
        decide_standardization(self.distiller, student, teacher)
        entry.record_settings(self.criteria, self.teacher)
        entry.check_shapes(student, teacher)
        self._refuse_sequences(student, teacher, data)
        self.criteria.build(student, teacher)
        self.criteria.reuse_guard.record(self.criteria.parts(), [widths(student), widths(teacher)])
        self.criteria.to(student.device)
        with unchanged(self.criteria):
            self.criteria.eval()
            sides = self.distiller.sides(student, teacher, data)
            loss = self._loss_of(sides)
            network = made_by if made_by is not None else self.student  # a compiled one has no truth value
            self._check_losses(loss.losses, data, sides, network, later)
        self._warn_of_misreadings(sides, labels)
        if module is not None:
            checks.every_parameter_reached(loss.total, module, self.criteria)
        entry.record_shapes(student, teacher)
        entry.record_reading(read)
        lines = [checks.summary(self.student, self.teacher, self.criteria, student, teacher), *read, *self._layouts()]
        rank_zero_info("\n".join(lines))

    def _refuse_sequences(self, student: Outputs, teacher: Outputs, data: Batch) -> None:
        for name, criterion in self.criteria.innermost().items():
            try:
                refuse_sequences(criterion, student, teacher, data)
            except ValueError as error:
                raise_named(name, criterion, error)

    def _ask_teacher(self, data: Batch) -> Outputs:
        """Return the teacher's outputs; refuse a teacher that changes its inputs, or itself while frozen."""
        teacher = self.teacher
        if teacher is None:
            return Outputs.nothing()
        guarded = self.distiller.guard.running(f"the teacher {teacher.name}", data, data.inputs, written=True)
        with comparing_values(), guarded, teacher.capture.finding_overwrites():
            ask = partial(teacher, data.for_teacher, input_mask(data))
            outputs = ask_steady(teacher.model, ask) if isinstance(teacher, FrozenTeacher) else ask()
        return check_outputs(teacher, outputs, "__call__")

    def _loss_of(self, sides: Sides) -> StepLoss:
        for owner, outputs in (("student", sides.student), ("teacher", sides.teacher)):
            check_logits(owner, outputs, self.criteria.criteria().values())
        have_values(sides.student, sides.teacher)
        with comparing_values():
            losses = self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        return self.distiller.step_loss(losses, sides)

    def _check_losses(self, losses: Losses, data: Batch, sides: Sides, made_by: nn.Module, later: bool) -> None:
        """Refuse criteria that are not finite for an example, or train nothing."""
        student, teacher, target = sides.student, sides.teacher, sides.target
        networks = {"student": (made_by, student)}
        if self.teacher is not None:
            networks["teacher"] = (self.teacher.model, teacher)
        criteria = self.criteria.criteria()
        values = {name: value for name, value in losses.raw.items() if self.criteria.trains(name)}
        example_is_finite(values, criteria, data, networks, target)
        partly = any(not parameter.requires_grad for parameter in made_by.parameters())
        self.distiller.capture.gradients_expected = not (later and partly)
        if torch.is_grad_enabled() and self.distiller.capture.gradients_expected:
            terms = losses.terms | self.criteria.waiting(student, teacher, target)
            reaches_student(terms, criteria, made_by, student)
            if isinstance(self.criteria.balance, AutoWeights):
                weights_can_be_found(self.criteria.balance, losses.terms, criteria, made_by)

    def _warn_of_misreadings(self, sides: Sides, labels: Target | None) -> None:
        """Warn of outputs and labels that are probably not what they are taken for."""
        student, teacher, target = sides.student, sides.teacher, sides.target
        if self.teacher is not None:
            needed = not self.teacher.frozen or checks.logits_are_read(self.criteria, student, teacher, target)
            self.teacher.skip_logits(not needed)
            if self._compares_scores():
                captures = self.distiller.captures().items()
                warn_of_probabilities(student, teacher, [who for who, one in captures if one.layouts.squashed])
            warn_of_logarithms(student, teacher, self.criteria, target)
        warn_of_other_tasks(self.criteria, student, target if target is not None else labels)
        warn_of_unread_weights(self.criteria, self.distiller.format)

    def refuse_lone_batch(self, why: str, data: Batch) -> None:
        """Refuse batches of one sample if a BatchNorm that trains cannot take one."""
        given = {"student": (self.student, data.inputs)}
        joint = self.distiller.registered_teacher
        if joint is not None:
            given["teacher"] = (joint, data.for_teacher)
        for owner, (network, inputs) in given.items():
            refuse_lone_batch(why, f"the {owner}", network, inputs, partial(call_model, network))
        refuse_lone_batch(why, "the criteria", self.criteria, data, self._weigh_alone)

    def _weigh_alone(self, data: Batch) -> None:
        with unchanged(*self.distiller.networks().values()):
            teacher = Outputs.nothing()
            if self.teacher is not None:
                teacher = self.teacher(data.for_teacher, input_mask(data))
            student = self.distiller.capture.run(data.inputs)
            sides = self.distiller.sides(student, teacher, data)
            self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)

    def _compares_scores(self) -> bool:
        for criterion in self.criteria.criteria().values():
            task = checks.task_of(criterion)
            reads = criterion.compares_logits or criterion.needs_target
            if reads and (task in CLASS_TASKS if task is not None else not isinstance(criterion, LogitMSE)):
                return True
        return False

    def _layouts(self) -> list[str]:
        lines = []
        for who, capture in self.distiller.captures().items():
            for layer in (None, *capture.layers):
                words = capture.layouts.words(layer)
                if words:
                    lines.append(f"Layout: the {who}'s {f'layer {layer!r}' if layer else 'logits'}: {words}.")
        return lines
