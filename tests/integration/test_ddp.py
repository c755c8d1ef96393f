"""Two processes give what one gives with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_SCRIPT = """
import sys
from functools import partial

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lit_distill import CombinedDistillation, FeatureDistillation, HardTarget, Hint, SoftTarget
from lit_distill.models import MLP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

class Data(LightningDataModule):
    # The same global batches for any number of processes: Lightning's own sampler would shuffle.

    def train_dataloader(self):
        sampler = DistributedSampler(data, devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size=16 // devices, sampler=sampler)

    val_dataloader = train_dataloader


kind, devices, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if __name__ == "__main__":
    seed_everything(0)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
    student, teacher = MLP(8, [6], 3), MLP(8, [10], 3)
    sgd = partial(torch.optim.SGD, lr=0.1)
    if kind == "combined":
        criteria = {
            "hard": HardTarget(),
            "soft": SoftTarget(),
            "hint": Hint("hidden.0", "hidden.0"),
            "spare": Hint("hidden", "hidden"),  # of weight 0: DDP must not wait for its projector
        }
        weights = {"hard": 1.0, "soft": 0.9, "hint": 1.0, "spare": 0.0}
        module = CombinedDistillation(student, teacher, criteria=criteria, weights=weights, optimizer=sgd)
    elif kind == "found":
        student, teacher = MLP(8, [6, 5], 3), MLP(8, [10, 9, 8, 7], 3)
        criteria, weights = {"hard": HardTarget(), "hint": Hint()}, {"hard": 1.0, "hint": 1.0}
        module = FeatureDistillation(student, teacher, criteria=criteria, weights=weights, optimizer=sgd)
    else:
        hint = {"hint": Hint("hidden.0", "hidden.0")}
        module = FeatureDistillation(student, teacher, criteria=hint, weights={"hint": 1.0}, optimizer=sgd)
    strategy = "ddp" if devices > 1 else "auto"
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, use_distributed_sampler=False, max_epochs=3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    seed_everything(1)  # DDP seeds again before it starts, so that projectors start alike
    trainer.fit(module, Data())
    if trainer.is_global_zero:
        torch.save(module.state_dict(), out)
        torch.save({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}, out + ".metrics")
"""


_RECORDED = """
import sys

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lit_distill import LogitDistillation, RecordedTeacher
from lit_distill.models import MLP
from lit_distill.recording import plan
from torch.utils.data import DataLoader, Dataset

plan._FEWEST_ROWS = 8


class Noisy(Dataset):
    def __len__(self):
        return 44

    def __getitem__(self, index):
        return images[index] + torch.rand(8), index % 3


class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Noisy(), batch_size=4, shuffle=True)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return (images + torch.rand(()) * images.roll(1, 0) if mixed and self.trainer.training else images), labels


class Comparing(LogitDistillation):
    def training_step(self, batch, batch_idx):
        given, live = self._teacher(batch[0]).logits, self.teacher(batch[0])
        assert (given - live).abs().max() < 1e-5
        self.seen.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


if __name__ == "__main__":
    mixed, folder = sys.argv[1] == "mixed", sys.argv[2]
    seed_everything(0)
    images = torch.randn(44, 8)
    teacher = RecordedTeacher(MLP(8, [10], 3), folder + "/record", views=2, logits="float32")
    module = Comparing(MLP(8, [6], 3), teacher)
    module.seen = []
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, Data())
    torch.save(torch.cat(module.seen), f"{folder}/seen-{trainer.global_rank}.pt")
    torch.save(torch.tensor(module._teacher.recorded), f"{folder}/recorded-{trainer.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["free", "mixed"])
def test_two_processes_share_the_recording_and_replay_it(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "recorded.py"
    script.write_text(_RECORDED)
    command = [sys.executable, str(script), kind, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [torch.load(tmp_path / f"seen-{rank}.pt", weights_only=True) for rank in (0, 1)]
    recorded = [int(torch.load(tmp_path / f"recorded-{rank}.pt", weights_only=True)) for rank in (0, 1)]
    assert sum(recorded) == 2 * 44
    # 11 fixed batches of four are not an even number: one comes twice an epoch.
    assert [len(rows) for rows in seen] == ([4 * 22] * 2 if kind == "free" else [4 * 24] * 2)
    epochs = [{tuple(row) for rows in seen for row in rows.chunk(4)[epoch].tolist()} for epoch in range(4)]
    assert len(epochs[0]) == 44
    assert epochs[0] == epochs[2]
    assert epochs[1] == epochs[3]
    assert not epochs[0] & epochs[1]


def run(folder: Path, kind: str, devices: int) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), kind, str(devices), str(folder / f"{kind}-{devices}.pt")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["combined", "found"])
def test_two_processes_give_the_weights_of_one(tmp_path: Path, kind: str) -> None:
    for devices in (1, 2):
        done = run(tmp_path, kind, devices)
        assert done.returncode == 0, done.stderr[-3000:]
    weights = [torch.load(tmp_path / f"{kind}-{n}.pt", weights_only=True) for n in (1, 2)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-5, atol=1e-6)
    metrics = [torch.load(tmp_path / f"{kind}-{n}.pt.metrics", weights_only=True) for n in (1, 2)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)


@pytest.mark.slow
def test_parameters_that_nothing_trains_are_named_before_the_first_batch(tmp_path: Path) -> None:
    done = run(tmp_path, "feature", 2)
    assert done.returncode != 0
    assert "no criterion trains student.classifier.weight, student.classifier.bias, which DDP" in done.stderr


_GUEST = """
import sys

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lit_distill import Distill, GradientNorm, Hint, SoftTarget
from lit_distill.models import MLP
from lit_distill.schedules import Between
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


class Theirs(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = MLP(8, [6], 3)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def train_dataloader(self):
        sampler = DistributedSampler(data, devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size=16 // devices, sampler=sampler)

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


devices, out = int(sys.argv[1]), sys.argv[2]
if __name__ == "__main__":
    seed_everything(0)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
    module, teacher = Theirs(), MLP(8, [10], 3)
    criteria = {"soft": SoftTarget(), "hint": Hint("hidden.0", "hidden.0")}
    schedules = {"hint.weight": Between(1.0, begin=1, end=2)}  # DDP must not wait for the projector in the other epochs
    distill = Distill(teacher, criteria, {"soft": 0.9}, schedules=schedules, balance=GradientNorm("soft", every=2))
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", use_distributed_sampler=False,
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[distill],
    )
    seed_everything(1)
    trainer.fit(module)
    if trainer.is_global_zero:
        torch.save({**module.state_dict(), **distill.criteria.state_dict()}, out)
"""


@pytest.mark.slow
def test_a_module_of_theirs_with_distill_schedules_and_balance(tmp_path: Path) -> None:
    (tmp_path / "guest.py").write_text(_GUEST)
    weights = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.pt"
        command = [sys.executable, str(tmp_path / "guest.py"), str(devices), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append(torch.load(out, weights_only=True))
    assert "hint.projectors.0.linear.weight" in weights[0]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-5, atol=1e-6)
