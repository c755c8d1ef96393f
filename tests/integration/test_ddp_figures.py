"""Figures over two processes: the user's metrics are those of one, and labels that do not fit on one keep both from hanging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import json, sys
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score
from lit_distill import LogitDistillation
from lit_distill.criteria import LogitMSE

kind, devices, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if __name__ == "__main__":
    seed_everything(0)
    labels = torch.randint(0, 3, (32,))
    metrics = {"f1": MulticlassF1Score(3)}
    if kind == "misfit":
        labels[1], metrics = 64, {}  # on the second process alone
    module = LogitDistillation(
        nn.Linear(4, 3), nn.Linear(4, 3), criteria={"mse": LogitMSE()}, weights={"mse": 1.0}, metrics=metrics
    )
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )
    loader = DataLoader(TensorDataset(torch.randn(32, 4), labels), batch_size=8)
    trainer.validate(module, loader, verbose=False)
    if trainer.is_global_zero:
        json.dump({name: float(value) for name, value in trainer.callback_metrics.items()}, open(out, "w"))
"""


def figures(folder: Path, kind: str, devices: int) -> dict[str, float]:
    script, out = folder / "run.py", folder / f"{kind}-{devices}.json"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), kind, str(devices), str(out)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(out.read_text())
    return found


@pytest.mark.slow
def test_the_users_metrics_are_those_of_one_process(tmp_path: Path) -> None:
    one, two = (figures(tmp_path, "fitting", devices) for devices in (1, 2))
    assert {"val/f1/student", "val/f1/teacher", "val/calibration_error/student", "val/accuracy/student"} <= set(two)
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_labels_that_do_not_fit_on_one_process_leave_both_without_figures(tmp_path: Path) -> None:
    assert figures(tmp_path, "misfit", 2) == {}
