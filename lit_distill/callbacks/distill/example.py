"""Runs an example through a module's training step, the teacher and the criteria before the fit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lit_distill.batch.batch import Batch, Target, move
from lit_distill.batch.examples import TrainingData, training_data
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.dry_run import run_step_on_copy
from lit_distill.callbacks.distill.step_reader import StepReader
from lit_distill.callbacks.distill.student_calls import StudentCalls
from lit_distill.capture.capture import is_compiled
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine.distiller import Distiller
from lit_distill.outputs import Outputs
from lit_distill.preflight.auto_layers import find_layers
from lit_distill.preflight.dry_run import DryRun
from lit_distill.preflight.networks import check_networks, refuse_empty
from lit_distill.preflight.unfreezing import unfreezes_later
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.tensors import first_parameter


@dataclass
class ExampleRun:
    """The dry run of ``Distill``."""

    distiller: Distiller
    calls: StudentCalls
    reader: StepReader
    task_loss: TaskLoss  # receives the loss of the module's own step
    follow: Callable[[torch.device], None]  # moves the teacher

    @property
    def _teacher(self) -> nn.Module | None:
        return self.distiller.networks().get("teacher")

    def run(self, trainer: Trainer, module: LightningModule, set_up: bool, inputs: Any = None) -> Batch | None:
        """Run an example, ``inputs`` or a training step on two samples, and check all that it shows.

        Return it, to check batches of one sample with; None if it does not have the student's own inputs.
        """
        refuse_empty(trainer, self.distiller.student, self._teacher)
        check_networks(self.distiller.student, self._teacher)
        if inputs is not None:
            self._run_inputs(trainer, module, inputs)
            return None
        samples = training_data(trainer)
        try:
            return self._run_step(trainer, module, set_up, samples)
        except Exception as error:  # a criterion, or a loss, that needs a whole batch
            failure = error
        with suppress(Exception):
            return self._run_step(trainer, module, set_up, samples, whole=True)
        raise failure

    def _run_inputs(self, trainer: Trainer, module: LightningModule, inputs: Any) -> None:
        parameter = first_parameter(module)
        self.follow(parameter.device)
        inputs = move(inputs, parameter.device, parameter.dtype)
        find_layers(self.distiller, self.reader.read_inputs(inputs, self._teacher), trainer)
        with as_in_evaluation(self.distiller.student), torch.enable_grad():
            outputs = self.distiller.capture.dry_run(inputs)
        data = self.reader.read_inputs(inputs, self._teacher)
        if not is_compiled(module):
            self.calls.expect_parts()
        self._compare(trainer, module, outputs, data, self.distiller.student, None, [])

    def _run_step(
        self, trainer: Trainer, module: LightningModule, set_up: bool, samples: TrainingData, whole: bool = False
    ) -> Batch | None:
        self.follow(first_parameter(module).device)
        if any(criterion.needs_layers for criterion in self.distiller.criteria.innermost().values()):
            done = run_step_on_copy(trainer, module, self.calls.active(), set_up, samples, self.reader.explain, whole)
            call = self.calls.learn(module, done.calls, done.recorder)
            find_layers(self.distiller, self.reader.read(done.batch, call, self._teacher), trainer)
        done = run_step_on_copy(trainer, module, self.calls.active(), set_up, samples, self.reader.explain, whole)
        loss = hosting.loss_of(done.returned, module) if done.returned is not None else None
        if loss is not None:
            self.task_loss.value = loss.detach()
        call = self.calls.learn(module, done.calls, done.recorder)
        data = self.reader.read(done.batch, call, self._teacher)
        read, labels = self.reader.describe(done.batch), self.reader.labels(done.batch)
        outputs = done.recorder.read(call, data.mask, dry=True, reader=data.for_teacher)
        student, capture = done.recorder.capture.model, self.distiller.capture
        if loss is not None and self.distiller.criteria.trains("task"):
            hosting.check_trains(loss, module, student, outputs)
        capture.overwritten.update(done.recorder.capture.overwritten)
        capture.layouts = done.recorder.capture.layouts
        self._compare(trainer, module, outputs, data, student, labels, read)
        return data if not call.parts else None

    def _compare(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Outputs,
        data: Batch,
        student: nn.Module,
        labels: Target | None,
        read: list[str],
    ) -> None:
        joint = self.distiller.registered_teacher
        later = unfreezes_later(trainer, module)
        with as_in_evaluation(*([joint] if joint is not None else [])), torch.enable_grad():
            DryRun(self.distiller).run(outputs, data, read=read, labels=labels, made_by=student, later=later)
