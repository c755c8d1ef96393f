"""The validation and test of a distillation: both networks on the same batches."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task
from lit_distill.batch.positions import settle, settled_logits
from lit_distill.batch.reading import BatchReader
from lit_distill.engine.acceleration import Acceleration
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.evaluator import Evaluator
from lit_distill.outputs import Outputs

# The metric in the progress bar, for tasks without an accuracy.
MAIN_METRICS: dict[Task, str] = {"regression": "mean_squared_error/student", "embedding": "cosine_similarity"}


class EvaluationSteps(LightningModule):
    """The evaluation hooks of ``DistillationModule``."""

    task: Task
    distiller: Distiller
    _acceleration: Acceleration
    _evaluator: Evaluator
    _format: BatchFormat
    _reader: BatchReader
    _evaluates_layers: ClassVar[bool] = False  # evaluation reads captured layers as well as the logits

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch, batch_idx, dataloader_idx)

    def _evaluate(self, stage: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        given, distiller = self._reader.read(batch), self.distiller
        with distiller.guard.closely_once((stage, dataloader_idx)):
            with self._acceleration.evaluation(), distiller.guarded_student(given):
                run = distiller.capture.run if self._evaluates_layers else distiller.capture.predict
                raw = run(given.inputs)
            data, outputs, _ = settle(given, self._format, raw, layouts=distiller.capture.layouts)
            arrange = partial(settled_logits, given, self._format, raw)
            place = (stage, dataloader_idx, batch_idx)
            self._evaluator.update(place, self._evaluated_logits(outputs), data, self._member_logits(outputs), arrange)

    def _evaluated_logits(self, outputs: Outputs) -> Tensor | dict[str, Tensor]:
        return outputs.logits

    def _member_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        """Return the logits of the networks that the student consists of, by the names to log them under."""
        return {}

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
        metrics = self._evaluator.finish(stage, sanity=self.trainer.sanity_checking)
        shown = f"{stage}/{MAIN_METRICS.get(self.task, 'accuracy/student')}"
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name == shown, sync_dist=True)
        if shown in metrics:
            # TensorBoard's HPARAMS tab shows it next to the hyperparameters.
            self.log("hp_metric", metrics[shown], sync_dist=True)
