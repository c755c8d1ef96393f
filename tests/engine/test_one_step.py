"""The way of one training batch: how far it is from ``training_step`` to the formula, and how much runs on the way."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

import lit_distill
from lit_distill import LogitDistillation
from lit_distill.models import MLP

_PACKAGE = os.path.dirname(lit_distill.__file__)


class Traced(LogitDistillation):
    """Notes every function of the package that the third training step runs, with the functions that called it."""

    calls: list[list[tuple[str, str]]]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx != 2:
            return super().training_step(batch, batch_idx)
        self.calls, stack = [], []

        def note(frame: FrameType, event: str, _: Any) -> None:
            path = frame.f_code.co_filename
            if not path.startswith(_PACKAGE):
                return
            if event == "call":
                stack.append((os.path.relpath(path, _PACKAGE), frame.f_code.co_qualname))
                self.calls.append(list(stack))
            elif event == "return":
                stack.pop()

        sys.setprofile(note)
        try:
            return super().training_step(batch, batch_idx)
        finally:
            sys.setprofile(None)


@pytest.fixture(scope="module")
def calls() -> list[list[tuple[str, str]]]:
    module = Traced(MLP(), MLP())
    data = TensorDataset(torch.randn(24, 1, 8, 8), torch.arange(24) % 10)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(data, batch_size=4))
    return module.calls


@pytest.mark.parametrize("formula", ["soft_target", "hard_target"])
def test_the_formula_is_at_most_five_calls_and_four_files_away(
    calls: list[list[tuple[str, str]]], formula: str
) -> None:
    way = next(stack for stack in calls if stack[-1][1] == formula)
    files = {file for file, _ in way}
    assert way[0] == (os.path.join("modules", "base.py"), "DistillationModule.training_step")
    assert len(way) - 1 <= 5
    assert len(files) <= 4


def test_little_runs_before_the_loss_is_back(calls: list[list[tuple[str, str]]]) -> None:
    run = {stack[-1] for stack in calls if "<" not in stack[-1][1].rpartition(".")[2]}
    assert len(run) <= 67
    assert len({file for file, _ in run}) <= 28
