"""Two processes find the weights that one finds with the same global batch, and none waits for the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

_SCRIPT = """
import json, sys
from functools import partial

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lit_distill import Distill, DistillationModule, HardTarget, Hint, SoftTarget
from lit_distill.criteria import LogitMSE
from lit_distill.models import MLP
from tests.plain import Plain
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

kind, devices, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Spoilt(LogitMSE):
    # On the second process alone, the gradient is 0 or NaN for some batches after the first.
    calls = 0

    def forward(self, student, teacher, target):
        value = super().forward(student, teacher, target)
        self.calls += self.training
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if kind not in ("zero", "nan", "apart") or rank == 0 or not 1 < self.calls < 6:
            return value
        if kind == "apart":
            return student.logits.new_zeros((), requires_grad=True)
        return value * 0 if kind == "zero" else value + (value * 0).sqrt()


class Curve(Callback):
    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, *rest):
        logged = trainer.callback_metrics.items()
        self.weights.append({name.rpartition("/")[2]: float(v) for name, v in logged if "/weight/" in name})

    def on_before_optimizer_step(self, trainer, module, optimizer):
        for parameter in module.parameters():  # what a NaN does to training is not the question
            if parameter.grad is not None:
                parameter.grad.nan_to_num_()


if __name__ == "__main__":
    seed_everything(0)
    count = 60 if kind == "uneven" else 64  # the last batches are smaller
    images, labels = torch.randn(count, 8), torch.randint(0, 3, (count,))
    if kind == "uncounted":
        labels[1::2] = -100  # on the second process no label counts
    data = TensorDataset(images, labels)
    student, teacher = MLP(8, [6], 3), MLP(8, [10], 3)
    criteria = {"soft": SoftTarget(), "hint": Hint("hidden.0", "hidden.0"), "mse": Spoilt()}
    curve = Curve()
    callbacks = [curve]
    if kind == "distill":
        module, guest = Plain(student), Distill(teacher, criteria, {})
        callbacks.insert(0, guest)
        held = guest.criteria
    else:
        sgd = partial(torch.optim.SGD, lr=0.01)
        module = DistillationModule(student, teacher, {"hard": HardTarget(), **criteria}, {}, optimizer=sgd)
        held = module.criteria
    rank = int(__import__("os").environ.get("LOCAL_RANK", 0))
    loader = DataLoader(data, batch_size=16 // devices, sampler=DistributedSampler(data, devices, rank, shuffle=False))
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_find_unused_parameters_true" if devices > 1 else "auto",
        use_distributed_sampler=False, max_epochs=3, logger=False, enable_checkpointing=False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
    )
    seed_everything(1)
    trainer.fit(module, loader)
    json.dump([curve.weights, held.balance.norms.tolist()], open(f"{out}-{trainer.global_rank}.json", "w"))
"""


def curves(folder: Path, kind: str, devices: int) -> tuple[list[Any], str]:
    """What each process found, and what was printed."""
    script, out = folder / "run.py", folder / f"{kind}-{devices}"
    script.write_text(_SCRIPT)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), kind, str(devices), str(out)],
        cwd=root,
        env={**__import__("os").environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(Path(f"{out}-{rank}.json").read_text()) for rank in range(devices)]
    return found, done.stderr + done.stdout


@pytest.mark.parametrize("kind", ["even", "uneven", "distill"])
def test_two_processes_find_what_one_finds(tmp_path: Path, kind: str) -> None:
    (one,), _ = curves(tmp_path, kind, 1)
    (first, second), said = curves(tmp_path, kind, 2)
    assert first == second
    assert said.count("Weights found in training: ") == 1
    assert len(first[0]) == 12
    assert len({weights["soft"] for weights in first[0]}) > 3
    for batch, (mine, theirs) in enumerate(zip(first[0], one[0], strict=True)):
        assert mine == pytest.approx(theirs, rel=1e-4), batch


@pytest.mark.parametrize("kind", ["uncounted", "zero", "nan", "apart"])
def test_a_process_without_a_gradient_keeps_nobody_waiting(tmp_path: Path, kind: str) -> None:
    (first, second), _ = curves(tmp_path, kind, 2)
    assert first == second
    assert len(first[0]) == 12
    assert all(0 < value < 1e6 for weights in first[0] for value in weights.values())
