"""After a fault in a recording, or in a training that reads one, trainer, DataModule and module are as they were."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_distill import Distill, LogitDistillation, RecordedTeacher, SoftTarget
from lit_distill.recording import FolderStore

PROMISE = "a fault next to a recording leaves trainer, DataModule and module as they were"
MakeTrainer = Callable[..., Trainer]
COUNT = 16


class Stop(RuntimeError):
    """The fault."""


class Rows(Dataset[Any]):
    """Raises where it is told to."""

    def __init__(self) -> None:
        self.bad = -1

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            raise Stop("no sample")
        return torch.randn(4, generator=torch.Generator().manual_seed(index)), index % 3


class Data(LightningDataModule):
    """With a hook of its class and one that was set on the object."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.workers, self.fault = Rows(), 0, False

        def own(batch: Any, dataloader_idx: int) -> Any:
            return batch

        self.on_before_batch_transfer = own  # type: ignore[method-assign]
        self.own = own

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=4, num_workers=self.workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.fault:
            raise Stop("no transfer")
        return batch


class Teacher(nn.Module):
    """Raises at the batch that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bad, self.seen = nn.Linear(4, 3), -1, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x) == 4
        if self.seen == self.bad:
            raise Stop("no answer")
        return self.fc(x)


class Own(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)
        self.bad = -1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == self.bad:
            raise Stop("no step")
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Distilling(LogitDistillation):
    bad = -1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == self.bad:
            raise Stop("no step")
        return super().training_step(batch, batch_idx)


def bad_sample(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    data.rows.bad = 6


def bad_sample_in_a_worker(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    data.rows.bad, data.workers = 6, 1


def bad_transfer(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    class Later(Rows):
        def __getitem__(self, index: int) -> Any:
            data.fault = data.fault or index == 9
            return super().__getitem__(index)

    data.rows = Later()


def bad_teacher(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    teacher.bad = 3


def full_disk(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    def write(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(FolderStore, "write", write)


def bad_step(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    module.bad = 2


def interrupted(data: Data, teacher: Teacher, module: Any, patch: pytest.MonkeyPatch) -> None:
    def write(*args: Any) -> None:
        raise KeyboardInterrupt

    patch.setattr(FolderStore, "write", write)


FAULTS = [bad_sample, bad_sample_in_a_worker, bad_transfer, bad_teacher, full_disk, bad_step, interrupted]


@pytest.mark.parametrize("door", ["module", "callback"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_leaves_all_as_it_was(
    fault: Callable[..., None], door: str, quick_trainer: MakeTrainer, tmp_path: Path, tally: Any
) -> None:
    data, teacher = Data(), Teacher()
    recorded = RecordedTeacher(teacher, tmp_path / "record")
    if door == "module":
        module: Any = Distilling(nn.Linear(4, 3), recorded, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
        trainer = quick_trainer(max_epochs=2)
    else:
        module = Own()
        trainer = quick_trainer(max_epochs=2, callbacks=[Distill(recorded, student="net")])
    source = trainer.fit_loop._data_source
    names = set(module.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        fault(data, teacher, module, patch)
        with pytest.raises((Stop, OSError, KeyboardInterrupt, SystemExit)):
            trainer.fit(module, datamodule=data)
    assert trainer.fit_loop._data_source is source
    assert "on_after_batch_transfer" not in vars(data)
    assert data.on_before_batch_transfer is data.own
    assert not teacher.training
    assert set(module.state_dict()) == names
    # And the next fit is an ordinary one, which goes on with what was recorded.
    data.rows, data.workers, data.fault, teacher.bad, module.bad = Rows(), 0, False, -1, -1
    again = quick_trainer(max_epochs=2, callbacks=[c for c in trainer.callbacks if isinstance(c, Distill)])
    again.fit(module, datamodule=data)
    assert again.global_step == 8
    tally(PROMISE)


def test_a_second_fit_of_the_same_trainer_reads_its_own_data(quick_trainer: MakeTrainer, tally: Any) -> None:
    recorded = RecordedTeacher(Teacher())
    module = Distilling(nn.Linear(4, 3), recorded, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    trainer = quick_trainer()
    trainer.fit(module, datamodule=Data())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, DataLoader(Rows(), batch_size=8))
    assert trainer.global_step == 4 + 2
    tally(PROMISE)
