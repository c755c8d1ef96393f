"""What a training step logs, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation
from lit_distill.models import MLP

STEPS = 5


@pytest.mark.parametrize(("every", "written"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), (50, [])])
def test_every_figure_reaches_the_logger_at_the_logging_steps(
    every: int, written: list[int], quick_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    data = DataLoader(TensorDataset(torch.randn(4 * STEPS, 64), torch.arange(4 * STEPS) % 10), batch_size=4)
    module = LogitDistillation(MLP(), MLP(hidden=(8,)))
    trainer = quick_trainer(logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1), log_every_n_steps=every)
    trainer.fit(module, data)
    path = Path(trainer.log_dir or "") / "metrics.csv"
    lines = path.read_text().splitlines() if path.is_file() else [""]
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    for name in (
        "train/loss",
        "train/criteria/hard",
        "train/weighted/soft",
        "train/weight/soft",
        "train/learning_rate",
    ):
        assert [int(row["step"]) for row in rows if row.get(name)] == written, name
        assert name in trainer.callback_metrics  # of the epoch's last step, for callbacks that monitor it


def test_the_figures_are_those_of_their_step(quick_trainer: Callable[..., Trainer]) -> None:
    data = DataLoader(TensorDataset(torch.randn(4 * STEPS, 64), torch.arange(4 * STEPS) % 10), batch_size=4)
    module = LogitDistillation(MLP(), MLP(hidden=(8,)))
    trainer = quick_trainer(log_every_n_steps=50)
    trainer.fit(module, data)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    weighted = found["train/weighted/hard"] + found["train/weighted/soft"]
    assert found["train/loss"] == pytest.approx(weighted, rel=1e-5)
    assert found["train/weighted/soft"] == pytest.approx(0.9 * found["train/criteria/soft"], rel=1e-5)
