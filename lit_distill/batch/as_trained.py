"""The trainer's treatment of a batch, and its context of a training step, for batches that are tried before the fit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import move


def training_step_context(trainer: Trainer) -> AbstractContextManager[None]:
    """Return the context of the trainer's training steps: autocast if its precision is mixed."""
    if str(trainer.precision).endswith("mixed"):
        return trainer.precision_plugin.train_step_context()
    return nullcontext()


def in_weights_type(trainer: Trainer, data: Any, weights: Tensor) -> Any:
    """Convert data to the weights' present type if the trainer will convert both; else return them as they are.

    With 64-true, bf16-true and 16-true the weights are converted after the dry run.
    """
    if str(trainer.precision) in ("64-true", "bf16-true", "16-true"):
        return move(data, weights.device, weights.dtype)
    return data


def on_device(trainer: Trainer, module: Any, batch: Any, device: torch.device) -> Any:
    """Prepare a loader's batch as Lightning does for the training step: precision, then transfer hooks."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)


def networks_of(trainer: Any, module: nn.Module) -> list[nn.Module]:
    """Return the module and the networks of its DataModule, which transfer hooks may run."""
    holders = vars(trainer.datamodule).values() if getattr(trainer, "datamodule", None) is not None else ()
    return [module, *(one for one in holders if isinstance(one, nn.Module) and one is not module)]
