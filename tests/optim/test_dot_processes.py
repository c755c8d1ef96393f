"""DOT among several processes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_distill.optim import DOT
from lit_distill.optim import dot as dot_module
from tests.optim.loops import (
    all_close,
)


def test_the_task_gradient_is_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (nn.Parameter(torch.zeros(size)) for size in (2, 1, 1))
    # Another process holds gradients for a and b; here a alone is held.
    other = torch.tensor([1.0, 1.0, 0.0, 3.0, 5.0, 7.0, 0.0])
    monkeypatch.setattr(dot_module, "distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(other))
    optimizer = DOT([a, b, c], lr=0.1)
    optimizer.hold({a: torch.tensor([1.0, 1.0])})
    for parameter in (a, b, c):
        parameter.grad = torch.full_like(parameter, 10.0)
    optimizer.step()
    assert optimizer.state[a]["momentum_task"].tolist() == [2.0, 3.0]
    assert optimizer.state[b]["momentum_task"].tolist() == [3.5]
    assert optimizer.state[b]["momentum_distill"].tolist() == [6.5]
    assert optimizer.state[c]["momentum_task"].tolist() == [10.0]
    assert "momentum_distill" not in optimizer.state[c]


_SCRIPT = """
import sys
from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything
from lit_distill import CombinedDistillation, HardTarget, Hint, SoftTarget
from lit_distill.models import MLP
from lit_distill.optim import DOT
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


class Theirs(CombinedDistillation):
    def train_dataloader(self):
        world = self.trainer.world_size
        sampler = DistributedSampler(self.data, world, self.trainer.global_rank, shuffle=False)
        return DataLoader(self.data, batch_size=16 // world, sampler=sampler)


def train(devices, out):
    seed_everything(0)
    data = TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
    criteria = {"hard": HardTarget(), "soft": SoftTarget(), "hint": Hint("hidden.0", "hidden.0")}
    module = Theirs(
        MLP(8, [6], 3), MLP(8, [10], 3), criteria=criteria, weights={"hard": 1.0, "soft": 0.9, "hint": 1.0},
        optimizer=partial(DOT, lr=0.1, weight_decay=0.01),
    )
    module.data = data
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", use_distributed_sampler=False,
        max_epochs=3, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    seed_everything(1)
    trainer.fit(module)
    if trainer.is_global_zero:
        state = trainer.optimizers[0].state_dict()["state"]
        torch.save([*module.state_dict().values(), *(v for entry in state.values() for v in entry.values())], out)


if __name__ == "__main__":
    train(2, sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_and_velocities_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    runpy.run_path(str(script))["train"](1, str(tmp_path / "1.pt"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "2.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("1.pt", "2.pt"))
    all_close(one, two, 2e-5)
