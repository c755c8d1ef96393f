"""Runs a distillation module's own work before all other callbacks'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_distill.engine.cleanup import StateBefore
from lit_distill.engine.distiller import Distiller
from lit_distill.files.resuming import guard, unguard
from lit_distill.files.saving import save_whole
from lit_distill.utils.signals import end_if_terminated, listen, listen_no_more, mark_terminated

if TYPE_CHECKING:
    from lit_distill.modules.base import DistillationModule


def _is_distillation(module: object) -> TypeGuard[DistillationModule]:
    return isinstance(getattr(module, "distiller", None), Distiller)


class EarlyHooks(Callback):
    """Runs a distillation module's hooks before those of all other callbacks: it is the first in the Trainer's list.

    Weight averaging copies the module in its setup, and other callbacks may end a batch with an error.
    """

    def __init__(self) -> None:
        self._before = StateBefore()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save_whole(trainer)
        listen(trainer)
        self._before.record(pl_module)
        guard(trainer)
        if stage == "fit" and _is_distillation(pl_module):
            pl_module.dry_run_on_data()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if _is_distillation(pl_module):
            if batch_idx == 0:
                pl_module.check_lone_batches(batch)
            pl_module.distiller.on_train_batch_start(trainer, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if _is_distillation(pl_module):
            pl_module.distiller.on_before_backward(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _is_distillation(pl_module):
            pl_module.distiller.on_train_batch_end(trainer)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        end_if_terminated(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        mark_terminated(trainer, exception)
        unguard(trainer)
        if _is_distillation(pl_module):
            pl_module.leave_plain()
        self._before.restore(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._before.forget()
        listen_no_more(trainer)
        unguard(trainer)
        if _is_distillation(pl_module):
            pl_module.leave_plain()
