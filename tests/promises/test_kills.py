"""A fit that is killed at any moment, and goes on from its last checkpoint, ends as one that nobody killed."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from lit_distill.files import whole_file
from tests.promises.conftest import Tally
from tests.promises.forks import in_fork
from tests.promises.schemes import FOUND, SCHEMES, labels_of, make

pytestmark = pytest.mark.slow

EXACT = "a fit that is killed and resumed equals an uninterrupted one, bit for bit"
EPOCHS, KILLS = 4, 3
HOOKS = [
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_after_backward",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
    "on_train_end",
]


class Samples(Dataset[Any]):
    """Samples with an augmentation that draws."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.inputs = torch.linspace(-1, 1, 24 * 8).reshape(24, 8)

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] + 0.1 * torch.rand(8), labels_of(self.scheme, torch.tensor(index % 3))


class Reaper(Callback):
    """Kills this process the n-th time that anything happens: a hook, or a checkpoint on its way to the disk."""

    def __init__(self, at: int) -> None:
        self.left = at
        for hook in HOOKS:
            vars(self)[hook] = self.count
        sync = whole_file._sync

        def counted(descriptor: int) -> None:
            self.count()
            sync(descriptor)
            self.count()

        whole_file._sync = counted

    def count(self, *arguments: Any, **options: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(scheme: str, folder: Path, at: int = -1) -> None:
    torch.manual_seed(0)
    module, callbacks = make(scheme, folder, drop=0.2)
    saving = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_last=True)
    last = folder / "last.ckpt"
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        callbacks=[*callbacks, saving, Reaper(at)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(1)
    trainer.fit(module, DataLoader(Samples(scheme), 8, shuffle=True), ckpt_path=last if last.exists() else None)


def weights(folder: Path) -> dict[str, Any]:
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["epoch"] == EPOCHS - 1
    return saved["state_dict"]


@pytest.mark.parametrize("scheme", [*SCHEMES, *FOUND])
def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path: Path, tally: Tally, scheme: str) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    assert in_fork(lambda: fit(scheme, tmp_path / "whole"), log=str(tmp_path / "log")) == 0, (
        tmp_path / "log"
    ).read_text()
    killed = 0
    for _ in range(KILLS):
        at = draw.randrange(1, 60)
        code = in_fork(lambda at=at: fit(scheme, tmp_path / "cut", at), log=str(tmp_path / "log"))
        assert code in (0, 137), (tmp_path / "log").read_text()[-3000:]
        killed += code == 137
    assert in_fork(lambda: fit(scheme, tmp_path / "cut"), log=str(tmp_path / "log")) == 0, (
        tmp_path / "log"
    ).read_text()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    differ = [name for name, value in whole.items() if not torch.equal(value, cut[name])]
    assert not differ, f"{scheme}, seed {seed}: {differ}"
    tally(EXACT, killed)
