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


def run(folder: Path, kind: str, devices: int) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), kind, str(devices), str(folder / f"{kind}-{devices}.pt")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    kind = "combined"
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
