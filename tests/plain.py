"""A module without distillation and a Trainer that writes nothing, which many tests need."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn


class Plain(LightningModule):
    """Trains a network on its inputs' labels by SGD."""

    def __init__(self, model: nn.Module, momentum: float = 0.0) -> None:
        super().__init__()
        self.model, self.momentum = model, momentum

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=self.momentum)


def quiet_trainer(**options: Any) -> Trainer:
    """A Trainer of one epoch on the CPU, without progress, summary and logger; ``options`` add to these or replace them."""
    usual = {"max_epochs": 1, "accelerator": "cpu", "logger": False}
    return Trainer(**{**usual, "enable_progress_bar": False, "enable_model_summary": False, **options})
