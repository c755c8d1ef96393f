"""Which callbacks and modules are seen to train later what is frozen now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from lit_distill.preflight.unfreezing import unfreezes_later


def thaw(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = True


def freeze(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False


class InAComprehension(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        [parameter.requires_grad_() for parameter in pl_module.parameters()]


class ByAFunction(Callback):
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        thaw(pl_module)


class ByAMethod(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.go(pl_module)

    def go(self, module: nn.Module) -> None:
        module.requires_grad_(True)


class ByItsName(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for parameter in pl_module.parameters():
            setattr(parameter, "requires_grad", True)  # noqa: B010


class ByEpochs(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.requires_grad_(trainer.current_epoch > 1)


class Freezes(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        freeze(pl_module)
        pl_module.requires_grad_(False)


class Reads(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        assert [parameter for parameter in pl_module.parameters() if parameter.requires_grad]


class Filters(LightningModule):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


@pytest.mark.parametrize("callback", [InAComprehension, ByAFunction, ByAMethod, ByItsName, ByEpochs])
def test_seen(callback: type[Callback]) -> None:
    assert unfreezes_later(SimpleNamespace(callbacks=[callback()]), nn.Linear(1, 1))


@pytest.mark.parametrize("callback", [Freezes, Reads, Callback])
def test_none_that_freezes_or_reads(callback: type[Callback]) -> None:
    assert not unfreezes_later(SimpleNamespace(callbacks=[callback()]), Filters())
