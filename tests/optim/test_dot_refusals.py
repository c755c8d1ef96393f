"""What DOT refuses, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn

from lit_distill import DistillationModule, HardTarget, SoftTarget
from lit_distill.engine.task_gradient import check_apart
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.optim import DOT
from tests.callbacks.guests import fit, loader, theirs
from tests.optim.loops import (
    OURS,
    WithDOT,
    data,
    fitted,
    networks,
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr must be finite and at least 0, not -1.0"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"weight_decay": -1.0}, "weight_decay must be finite"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), not 1.0"),
        ({"delta": 0.1}, "their sum below 1; not 0.1 with a momentum of 0.9"),
        ({"delta": -0.1}, "delta must be from 0"),
        ({"momentum": 0.05, "delta": 0.06}, "delta must be from 0 to the momentum"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DOT([nn.Parameter(torch.ones(1))], **{"lr": 0.1, **arguments})


def test_a_scheduler_that_cycles_the_momentum_is_refused() -> None:
    theta = nn.Parameter(torch.ones(1))
    optimizer = DOT([theta], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
    optimizer.hold({})
    theta.grad = torch.ones(1)
    with pytest.raises(ValueError, match="needs cycle_momentum=False"):
        optimizer.step()


def test_a_module_without_distillation_is_told(tmp_path: Path) -> None:
    module = theirs(WithDOT)
    with pytest.raises(RuntimeError, match=r"Only a distillation module .* lit_distill\.Distill, gives it"):
        fit(module, None, tmp_path, data=loader())


def test_a_step_without_gradients_needs_nothing() -> None:
    assert DOT([nn.Parameter(torch.ones(1))], lr=0.1).step(lambda: 3.0) == 3.0


def test_clipping_is_refused_before_the_first_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Leave gradient_clip_val out"):
        fitted(OURS, tmp_path, gradient_clip_val=1.0)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"hard": 0.0, "soft": 1.0}, r"train \(soft\) all need one: add HardTarget"),
        ({"hard": 1.0, "soft": 0.0}, r"train \(hard\) need none: add SoftTarget"),
    ],
)
def test_one_kind_of_criterion_alone_is_refused(tmp_path: Path, weight: dict[str, float], message: str) -> None:
    criteria = {"hard": HardTarget(), "soft": SoftTarget()}
    module = DistillationModule(*networks(), criteria=criteria, weights=weight, optimizer=OURS)
    with pytest.raises(ValueError, match=message):
        fit(module, None, tmp_path, precision="64-true", data=data())


@pytest.mark.parametrize(
    ("what", "message"), [("scaler", "Use bf16-mixed or 32-true"), ("strategy", "FSDPStrategy shards them")]
)
def test_what_cannot_be_split_is_refused(what: str, message: str) -> None:
    criteria = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 1.0, "soft": 1.0})
    real = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    plugin = MixedPrecision("16-mixed", "cuda", scaler) if what == "scaler" else real.precision_plugin
    trainer = SimpleNamespace(
        optimizers=[DOT([nn.Parameter(torch.ones(1))], lr=0.1)],
        gradient_clip_val=None,
        precision_plugin=plugin,
        precision=plugin.precision,
        strategy=FSDPStrategy() if what == "strategy" else real.strategy,
    )
    with pytest.raises(ValueError, match=message):
        check_apart(trainer, criteria)  # type: ignore[arg-type]
