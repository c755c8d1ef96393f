"""What is planned for a time that the fit does not reach is told; nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import LogitDistillation, Unfreeze
from lit_distill.engine.fit_length import fit_length
from lit_distill.schedules import Between, Cosine, Linear, Schedule, Step
from lit_distill.utils.notices import DistillationWarning
from tests.callbacks.guests import distill, fit, theirs

QuickTrainer = Callable[..., Trainer]


class Own(Schedule):
    """One that says nothing of its moments."""

    def value(self, step: int, epoch: float) -> float:
        return 1.0


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))


def data() -> Any:
    return DataLoader(TensorDataset(torch.randn(16, 4), torch.arange(16) % 3), batch_size=4)


def told(quick_trainer: QuickTrainer, schedule: Schedule | None, callbacks: Any = (), **limits: Any) -> list[str]:
    """What a fit of four batches an epoch says of a schedule."""
    schedules = {"soft.weight": schedule} if schedule is not None else None
    module = LogitDistillation(network(), network(), schedules=schedules)
    trainer = quick_trainer(callbacks=list(callbacks), **{"max_epochs": 1, "limit_val_batches": 0, **limits})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data())
    kept = [str(one.message) for one in caught if issubclass(one.category, DistillationWarning)]
    return [message for message in kept if "the fit ends" in message]


@pytest.mark.parametrize(
    ("schedule", "limits", "expected"),
    [
        (Linear(0, 1, 60, begin=50), {}, "starts at epoch 50, and the fit ends at epoch 1"),
        (Cosine(0, 1, 6, begin=1), {}, "starts at epoch 1, and the fit ends at epoch 1"),
        (Step(0.5, {3: 1.0}), {"max_epochs": 2}, "starts at epoch 3, and the fit ends at epoch 2"),
        (Between(1.0, begin=5, outside=0.5), {}, "starts at epoch 5, and the fit ends at epoch 1"),
        (Linear(0.5, 1, 200, begin=100, unit="step"), {}, "starts at step 100, and the fit ends at step 4"),
        (
            Step(0.5, {2: 1.0}, unit="step"),
            {"accumulate_grad_batches": 2},
            "starts at step 2, and the fit ends at step 2",
        ),
        (
            Linear(0.5, 1, 9, begin=2),
            {"max_epochs": -1, "max_steps": 4},
            "starts at epoch 2, and the fit ends at epoch 1",
        ),
        (Linear(0.5, 1, 60), {}, "is done at epoch 60, and the fit ends at epoch 1"),
    ],
)
def test_what_begins_after_the_fit_is_told(
    quick_trainer: QuickTrainer, schedule: Schedule, limits: dict[str, Any], expected: str
) -> None:
    (message,) = told(quick_trainer, schedule, **limits)
    assert "the schedule of 'soft.weight'" in message
    assert expected in message


@pytest.mark.parametrize(
    ("schedule", "limits"),
    [
        (None, {}),
        (Linear(0.5, 1, 1), {}),
        (Linear(0.5, 1, 2), {}),
        (Linear(1, 1, 60, begin=50), {}),
        (Linear(0.5, 1, 2, begin=1), {"max_epochs": 2}),
        (Step(0.5, {1: 1.0, 50: 0.0}), {"max_epochs": 2}),
        (Between(1.0, end=50), {}),
        (Between(1.0), {}),
        (Linear(0.5, 1, 4, unit="step"), {}),
        (Own(), {}),
        (Linear(0, 1, 60, begin=50), {"fast_dev_run": True}),
        (Linear(0.5, 1, 60, begin=50), {"max_epochs": -1, "max_time": {"seconds": 0}}),
        (Linear(0.5, 1, 600, begin=500, unit="step"), {"max_epochs": -1, "max_time": {"seconds": 0}}),
    ],
)
def test_nothing_is_told_of_the_others(
    quick_trainer: QuickTrainer, schedule: Schedule | None, limits: dict[str, Any]
) -> None:
    assert told(quick_trainer, schedule, **limits) == []


def test_distill_tells_it_too(tmp_path: Path) -> None:
    guest = distill(schedules={"soft.weight": Linear(0.5, 1, 60, begin=50)})
    with pytest.warns(DistillationWarning, match=r"'soft.weight'.*starts at epoch 50, and the fit ends at epoch"):
        fit(theirs(), guest, tmp_path)


def test_layers_that_are_never_unfrozen_are_told(quick_trainer: QuickTrainer) -> None:
    (message,) = told(quick_trainer, None, [Unfreeze(["0"], 5)])
    assert message == "Unfreeze trains 0 from epoch 5 on, and the fit ends at epoch 1: they stay frozen."
    assert told(quick_trainer, None, [Unfreeze(["0"], 1)], max_epochs=2) == []


def test_the_length_of_a_fit(quick_trainer: QuickTrainer) -> None:
    trainer = quick_trainer(max_epochs=3, max_steps=8, limit_val_batches=0, accumulate_grad_batches=2)
    trainer.fit(LogitDistillation(network(), network()), data())
    assert (fit_length(trainer), fit_length(trainer, "step")) == (3, 6)
