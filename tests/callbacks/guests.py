"""A user's LightningModule, and what the tests of ``Distill`` do with it again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, Hint, SoftTarget
from lit_distill.utils.lightning_names import trainer_class


class Theirs(LightningModule):
    """The usual classifier."""

    def __init__(self, width: int = 6, scheduled: bool = False) -> None:
        super().__init__()
        self.model = network(width)
        self.scheduled = scheduled
        self.steps: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.steps.append(float(loss.detach()))
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        if not self.scheduled:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)]


def network(width: int = 6, dropout: float = 0.0) -> nn.Sequential:
    body = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(body, nn.Dropout(dropout), nn.Linear(width, 3))


def loader(count: int = 16, batch_size: int = 4, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    data = TensorDataset(torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator))
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)


def teacher(seed: int = 9) -> nn.Sequential:
    torch.manual_seed(seed)
    return network(11)


def distill(**options: Any) -> Distill:
    """With a hint that needs a projector, unless other criteria are given."""
    settings: dict[str, Any] = {
        "criteria": {"soft": SoftTarget(2.0), "hint": Hint("0", "0")},
        "weights": {"task": 0.5, "soft": 0.9, "hint": 1.0},
    }
    return Distill(options.pop("teacher", None) or teacher(), **{**settings, **options})


def theirs(make: Callable[..., LightningModule] = Theirs, **options: Any) -> Any:
    torch.manual_seed(1)
    return make(**options)


def fit(module: LightningModule, guest: Callback | None, folder: Path, **options: Any) -> Trainer:
    """Fit quietly, the same data and random numbers each time."""
    settings: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": False, "callbacks": [guest] if guest else []}
    given = {**settings, **options}
    path, data, val = (given.pop(name, None) for name in ("ckpt_path", "data", "val"))
    seed_everything(7, verbose=False)
    trainer = trainer_class(module)(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        **{"logger": False, **given},
    )
    trainer.fit(module, data or loader(), val, ckpt_path=path)
    return trainer


def saving(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
