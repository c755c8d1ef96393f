"""What runs, and may not be meant: the library warns of it, and the doctor reports it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, Hint, LogitDistillation, SoftTarget
from lit_distill.criteria import LogitMSE
from lit_distill.doctor import examine
from lit_distill.doctor.examining import report
from lit_distill.modules import DistillationModule

X, Y = torch.randn(16, 4), torch.randint(0, 3, (16,))
DATA: DataLoader[Any] = DataLoader(TensorDataset(X, Y), batch_size=8)


class Both(NamedTuple):
    logits: Tensor
    aux: Tensor


class WithAuxiliaryHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        return Both(self.fc(hidden), self.aux(hidden)) if self.training else self.fc(hidden)


class Own(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        slow, fast = self.model[0].parameters(), self.model[2].parameters()
        return torch.optim.AdamW([{"params": slow, "lr": 1e-6}, {"params": fast, "lr": 1e-3}])


def probabilities(last: nn.Module, task: str = "multiclass", width: int = 3) -> Callable[[], DistillationModule]:
    teacher = nn.Sequential(nn.Linear(4, width), last)
    return lambda: LogitDistillation(nn.Linear(4, width), teacher, task=task)  # type: ignore[arg-type]


SETUPS: dict[str, tuple[Callable[[], LightningModule], Any, list[Any], str]] = {
    "a teacher that ends in a softmax": (
        probabilities(nn.Softmax(-1)),
        DATA,
        [],
        "the teacher ends in a sigmoid or a softmax",
    ),
    "a teacher that ends in a sigmoid": (
        probabilities(nn.Sigmoid(), "binary", 1),
        DataLoader(TensorDataset(X, Y > 0), batch_size=8),
        [],
        "the teacher ends in a sigmoid or a softmax",
    ),
    "an auxiliary head": (
        lambda: LogitDistillation(WithAuxiliaryHead(), WithAuxiliaryHead()),
        DATA,
        [],
        "no criterion trains student.aux.weight, student.aux.bias",
    ),
    "an entry that reaches nobody": (
        lambda: LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3)),
        DataLoader([{"x": x, "boxes": x, "label": y} for x, y in zip(X, Y, strict=True)], batch_size=8),  # type: ignore[arg-type]
        [],
        "'boxes' of the batch reaches neither network",
    ),
    "a schedule made for steps": (
        lambda: LogitDistillation(
            nn.Linear(4, 3),
            nn.Linear(4, 3),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6),
        ),
        DATA,
        [],
        "looks made for optimizer steps",
    ),
    "a LightningModule's own optimizer": (
        lambda: LogitDistillation(Own(), Own()),
        DATA,
        [],
        "its own configure_optimizers",
    ),
    "a projector in a slow group": (
        Own,
        DATA,
        [
            Distill(
                nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), {"hint": Hint("0", "0")}, {"hint": 1.0}
            )
        ],
        "learning rate",
    ),
}


class Host(Own):
    """Somebody's module whose network has a mode, and whose steps may not call it."""

    def __init__(self, calls: bool = True) -> None:
        super().__init__()
        self.calls = calls
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        if self.calls or self.steps < 2:
            return super().training_step(batch, batch_idx)
        return self.model[0].weight.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sleeping(frozen: bool = False) -> Host:
    host = Host()
    host.model.eval().requires_grad_(not frozen)
    host.model[3].requires_grad_(True)
    return host


def sleeping_norm() -> LightningModule:
    module = LogitDistillation(Host().model, nn.Linear(4, 3))
    module.student[1].eval()  # type: ignore[index]
    return module


TEACHER = nn.Sequential(nn.Linear(4, 3))
SETUPS |= {
    "a student in eval mode beside Distill": (sleeping, DATA, [Distill(TEACHER)], "trained with 1, 2 in eval mode"),
    "a part of a student in eval mode": (sleeping_norm, DATA, [], "is trained with 1 in eval mode"),
    "a step that does not call the student": (
        lambda: Host(calls=False),
        DATA,
        [Distill(TEACHER)],
        "did not call the student 'model'",
    ),
    "labels of another task": (
        lambda: LogitDistillation(nn.Linear(4, 3), TEACHER, {"soft": SoftTarget()}, {"soft": 1.0}),
        DataLoader(TensorDataset(X, X[:, :3] * 5), batch_size=8),
        [],
        "task='regression'",
    ),
}


def test_what_is_frozen_may_be_in_eval_mode() -> None:
    host = sleeping(frozen=True)
    host.model[2].p = 0.0
    found = examine(host, DATA, {"callbacks": [Distill(TEACHER)]}, steps=2)
    assert not [finding for finding in found if "in eval mode" in finding.found]


def test_a_criterion_of_weight_0_is_named_in_a_note() -> None:
    module = LogitDistillation(
        nn.Linear(4, 3), TEACHER, {"soft": SoftTarget(), "mse": LogitMSE()}, {"soft": 1.0, "mse": 0.0}
    )
    notes = report(module, DATA, steps=2).notes
    assert [note for note in notes if "'mse' has the weight 0 throughout" in note]
    assert not [note for note in notes if "'soft' has the weight 0" in note]


@pytest.mark.parametrize("name", SETUPS)
def test_the_doctor_reports_what_runs_and_may_not_be_meant(name: str) -> None:
    make, data, callbacks, words = SETUPS[name]
    options = {"callbacks": callbacks, "max_epochs": 2}
    found = [finding for finding in examine(make(), data, options, steps=2) if finding.check == "set_up"]
    assert any(words in f"{finding.found} {finding.remedy}" for finding in found), found
    assert all(finding.severity == "warning" for finding in found)


def test_a_plain_set_up_is_told_nothing() -> None:
    module = LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3))
    assert not [finding for finding in examine(module, DATA, steps=2) if finding.check == "set_up"]
