"""Samples per second by a clock of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation
from lit_distill.callbacks import Throughput
from lit_distill.models import SmallCNN


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeModule:
    def __init__(self) -> None:
        self.logged: list[float] = []

    def log(self, name: str, value: float, prog_bar: bool, batch_size: int) -> None:
        assert (name, prog_bar) == ("train/samples_per_second", True)
        self.logged.append(value)


class FakeTrainer:
    world_size = 1
    is_last_batch = False
    global_step = 0
    log_every_n_steps = 1


def drive(throughput: Throughput, clock: Clock, steps: list[tuple[float, int]], world_size: int = 1) -> list[float]:
    """Steps of so many seconds and samples; what was logged."""
    module, trainer = FakeModule(), FakeTrainer()
    trainer.world_size = world_size
    throughput.on_train_start(trainer, module)  # type: ignore[arg-type]
    for index, (seconds, samples) in enumerate(steps):
        throughput.on_train_batch_start(trainer, module, (torch.zeros(samples, 1), None), index)  # type: ignore[arg-type]
        clock.now += seconds
    return module.logged


def test_the_first_steps_are_left_out() -> None:
    clock = Clock()
    logged = drive(Throughput(clock=clock), clock, [(60.0, 8), (30.0, 8), (2.0, 8), (4.0, 8), (1.0, 8)])
    assert logged == pytest.approx([8 / 2, 16 / 6])


def test_the_window_forgets_and_batches_may_differ() -> None:
    clock = Clock()
    logged = drive(Throughput(2, 0, clock), clock, [(1.0, 8), (3.0, 4), (1.0, 6), (1.0, 8)])
    assert logged == pytest.approx([8.0, 12 / 4, 10 / 4])


def test_between_logged_steps_a_figure_a_second_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTrainer, "log_every_n_steps", 50)
    clock = Clock()
    logged = drive(Throughput(100, 0, clock), clock, [(0.4, 4)] * 8)
    assert logged == pytest.approx([10.0, 10.0])  # after 1.2 and 2.4 seconds


def test_all_processes_count() -> None:
    clock = Clock()
    assert drive(Throughput(2, 0, clock), clock, [(2.0, 8), (2.0, 8)], world_size=4) == [16.0]


def test_validation_time_does_not_count_and_a_new_fit_starts_anew() -> None:
    clock, module, trainer = Clock(), FakeModule(), FakeTrainer()
    throughput: Any = Throughput(10, 0, clock)
    batch = torch.zeros(8, 1)
    throughput.on_validation_start(trainer, module)  # the sanity check
    throughput.on_validation_end(trainer, module)
    throughput.on_train_start(trainer, module)
    throughput.on_train_batch_start(trainer, module, batch, 0)
    clock.now += 2
    throughput.on_validation_start(trainer, module)
    clock.now += 1000
    throughput.on_validation_end(trainer, module)
    clock.now += 2
    throughput.on_train_batch_start(trainer, module, batch, 1)
    assert module.logged == [2.0]
    clock.now += 5000
    throughput.on_train_start(trainer, module)
    throughput.on_train_batch_start(trainer, module, batch, 0)
    assert module.logged == [2.0]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"window": 0}, "window must be at least 1"), ({"warm_up": -1}, "warm_up must be")]
)
def test_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Throughput(**arguments)


class Tick(Callback):
    """Half a second a step, a hundred for validation."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.now += 0.5

    def on_validation_batch_end(self, *_: Any) -> None:
        self.clock.now += 100


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.rand(40, 1, 8, 8), torch.randint(0, 10, (40,))), batch_size=4)


def test_a_fit_logs_it_at_the_trainers_cadence(tmp_path: Path, quick_trainer: Callable[..., Trainer]) -> None:
    clock = Clock()
    trainer = quick_trainer(
        max_epochs=2,
        callbacks=[Throughput(clock=clock), Tick(clock)],
        logger=CSVLogger(tmp_path),
        log_every_n_steps=5,
        val_check_interval=3,
    )
    module = LogitDistillation(SmallCNN(2), SmallCNN(2))
    trainer.fit(module, loader(), loader())
    assert sum(isinstance(callback, Throughput) for callback in trainer.callbacks) == 1  # type: ignore[attr-defined]
    assert float(trainer.progress_bar_metrics["train/samples_per_second"]) == 8.0
    lines = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().splitlines()  # type: ignore[union-attr, arg-type]
    column = lines[0].split(",").index("train/samples_per_second")
    found = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert found == [8.0] * 4


def test_every_distillation_brings_it(quick_trainer: Callable[..., Trainer]) -> None:
    trainer = quick_trainer(max_epochs=1)
    module: LightningModule = LogitDistillation(SmallCNN(2), SmallCNN(2))
    trainer.fit(module, loader(), loader())
    assert float(trainer.callback_metrics["train/samples_per_second"]) > 0
