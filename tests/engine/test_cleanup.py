"""What an error leaves of classes that Lightning changes while it asks for loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from lit_distill import LogitDistillation

QuickTrainer = Callable[..., Trainer]


class Loader(DataLoader[Any]):
    """A loader class of the user's."""

    def __init__(self, dataset: Any, batch_size: int = 4) -> None:
        super().__init__(dataset, batch_size)


class Broken(LightningDataModule):
    """Fails as it makes its loaders."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def _make(self, stage: str) -> Loader:
        if stage == self.stage:
            raise OSError("no such folder")
        return Loader(TensorDataset(torch.randn(8, 3), torch.randint(0, 2, (8,))))

    def train_dataloader(self) -> Loader:
        return self._make("train")

    def val_dataloader(self) -> Loader:
        return self._make("val")


@pytest.mark.parametrize("stage", ["train", "val"])
def test_a_loader_that_cannot_be_made_leaves_its_classes_as_they_were(stage: str, quick_trainer: QuickTrainer) -> None:
    def methods() -> list[Any]:
        names = ("__init__", "__setattr__", "__delattr__")
        return [getattr(kind, name) for kind in (DataLoader, Loader, BatchSampler) for name in names]

    before = methods()
    module = LogitDistillation(nn.Linear(3, 2), nn.Linear(3, 2))
    with pytest.raises(OSError, match="no such folder"):
        quick_trainer().fit(module, Broken(stage))
    assert methods() == before
    assert "__dataset" not in vars(Loader([]))
