"""The hooks of ``Distill`` in the module's validation and test."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lit_distill.batch.batch import BatchFormat
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.evaluation import StepEvaluation
from lit_distill.callbacks.distill.student_calls import StudentCalls
from lit_distill.engine.distiller import Distiller
from lit_distill.teachers import Teacher, as_teacher


class EvaluationHooks(Callback):
    """The evaluation hooks of ``Distill``."""

    student: str
    teacher: nn.Module | Teacher
    distiller: Distiller | None
    _evaluation: StepEvaluation
    _calls: StudentCalls
    _format: BatchFormat

    def _begin_evaluation(self, module: LightningModule, stage: str) -> None:
        student = hosting.find(module, self.student)
        if student is None or not self._evaluation.on or getattr(module, "_compiler_ctx", None) is not None:
            return
        teacher = self.distiller.teacher if self.distiller is not None else self._untrained_teacher(student)
        if teacher is not None:
            teacher.apply(lambda tensor: tensor.to(module.device))
        layouts = self.distiller.capture.layouts if self.distiller is not None else None
        self._evaluation.begin(module, student, teacher, self._calls.parts or (), stage, layouts)

    def _untrained_teacher(self, student: nn.Module) -> Teacher | None:
        """Return the teacher if there was no fit; None if it learns in a fit."""
        known = self._evaluation.teacher
        teacher = known if known is not None else as_teacher(self.teacher).for_student(student)
        if not teacher.frozen:
            return None
        if known is None:
            teacher.capture_layers((), self._format)
        return teacher

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation(pl_module, "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_evaluation(pl_module, "test")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluation.at("val", dataloader_idx, batch_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluation.at("test", dataloader_idx, batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation.finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation.finish(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation.end()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation.end()
