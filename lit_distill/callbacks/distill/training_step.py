"""Adds the distillation to the loss of another module's training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lit_distill.batch.batch import Batch, count_samples
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.step_reader import StepReader
from lit_distill.callbacks.distill.student_calls import StudentCalls
from lit_distill.callbacks.throughput import is_logging_step
from lit_distill.capture.call import Call
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.finiteness import refuse_loss
from lit_distill.engine.step import StepLoss
from lit_distill.utils.notices import warn


@dataclass
class DistilledStep:
    """A ``training_step`` with the criteria's losses added."""

    distiller: Distiller
    calls: StudentCalls
    reader: StepReader
    task_loss: TaskLoss  # receives the loss of the module's own step
    follow: Callable[[torch.device], None]  # moves the teacher
    _warned: bool = False

    def of(self, module: LightningModule) -> hosting.Wrapper:
        """Return the wrapper of a module's ``training_step``."""

        def step(original: Callable[..., Any], batch: Any, *rest: Any) -> Any:
            if not module.trainer.training:  # their validation_step calls it
                return original(batch, *rest)
            self.follow(module.device)  # a learning-rate finder's trial steps come before on_fit_start
            with self.calls.active().record() as calls, self.distiller.eager_steps.eagerly():
                try:
                    returned = original(batch, *rest)
                except Exception as error:
                    self.reader.explain(error, batch, calls)
                    raise
            chosen = self.calls.choose(module, calls)
            if returned is None or not chosen:
                self._warn_not_called(returned is not None)
                return returned
            total = self._add_criteria(module, returned, batch, chosen)
            return {**returned, "loss": total} if isinstance(returned, Mapping) else total

        return step

    def _add_criteria(self, module: LightningModule, returned: Any, batch: Any, calls: list[Call]) -> Tensor:
        self.task_loss.value = hosting.loss_of(returned, module)
        parts = [self._loss_of(batch, call) for call in calls]
        self.task_loss.value = torch.zeros(())  # the graph must not outlive the step
        total = torch.stack([part.total for part in parts]).mean()
        if not torch.isfinite(total):
            part = next((part for part in parts if not torch.isfinite(part.total)), parts[0])
            networks = self.distiller.networks()
            refuse_loss(total, part.losses, part.own, module.global_step, Batch(calls[0].inputs), networks)
        self._log(module, total, parts, count_samples(calls[0].inputs))
        return total

    def _loss_of(self, batch: Any, call: Call) -> StepLoss:
        distiller = self.distiller
        data = self.reader.read(batch, call, distiller.networks().get("teacher"))
        student = self.calls.active().read(call, data.mask, reader=data.for_teacher)
        sides = distiller.sides(student, distiller.run_teacher(data), data)
        with distiller.repeated_backward():
            losses = distiller.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        return distiller.step_loss(losses, sides)

    def _log(self, module: LightningModule, total: Tensor, parts: list[StepLoss], size: int | None) -> None:
        if not (is_logging_step(module.trainer) or module.trainer.should_stop):
            return
        logged = [self.distiller.logs(part) for part in parts]
        logs = {f"distill/{name}": sum(float(one[name]) for one in logged) / len(logged) for name in logged[0]}
        module.log_dict({"distill/loss": total.detach(), **logs}, batch_size=size)

    def _warn_not_called(self, stepped: bool) -> None:
        if stepped and not self._warned:
            self._warned = True
            warn(
                f"a training step did not call the student {self.calls.student!r} with gradients on: nothing was distilled in "
                "it. Check that this step is meant to train without the teacher."
            )
