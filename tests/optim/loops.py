"""Tiny distillations in float64, and the paper's two velocities as a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, HardTarget, Hint, SoftTarget
from lit_distill.models import MLP
from lit_distill.optim import DOT
from tests.callbacks.guests import Theirs, fit, loader

LR, DECAY, T = 0.1, 1e-2, 2.0
OURS = partial(DOT, lr=LR, momentum=0.9, delta=0.075, weight_decay=DECAY)
SGD = partial(torch.optim.SGD, lr=LR, momentum=0.9, weight_decay=DECAY)
Pair = tuple[Tensor | None, Tensor | None]


def networks(dtype: torch.dtype = torch.float64) -> tuple[MLP, MLP]:
    torch.manual_seed(0)
    return MLP(5, [6], 3).to(dtype), MLP(5, [11], 3).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> DataLoader[Any]:
    rows, labels = loader().dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(rows.to(dtype), labels), batch_size=4)


def make(optimizer: Any, dtype: torch.dtype = torch.float64, **options: Any) -> CombinedDistillation:
    criteria = {"hard": HardTarget(), "soft": SoftTarget(T), "hint": Hint("hidden.0", "hidden.0")}
    torch.manual_seed(1)
    given = {"weights": {"hard": 0.4, "soft": 0.6, "hint": 2.0}, **options}
    return CombinedDistillation(*networks(dtype), criteria=criteria, optimizer=optimizer, **given)


def fitted(optimizer: Any, folder: Path, **options: Any) -> CombinedDistillation:
    module = make(optimizer, **{key: options.pop(key) for key in ("balance", "schedules") if key in options})
    fit(module, None, folder, precision="64-true", data=data(), **options)
    return module


def soft(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = F.log_softmax(teacher / T, -1), F.log_softmax(student / T, -1)
    return T * T * (p.exp() * (p - q)).sum(-1).mean()


class Loop:
    """The paper's two velocities, each with a backward pass of its own."""

    def __init__(self, parameters: Sequence[Tensor], momentum: float = 0.9, delta: float = 0.075) -> None:
        self.parameters, self.momentum, self.delta = list(parameters), momentum, delta
        self.task: dict[int, Tensor] = {}
        self.distill: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, losses: Sequence[Pair]) -> None:
        """A step on the mean of several batches' losses of the task and of the teacher."""
        two = [self.mean([pair[kind] for pair in losses]) for kind in (0, 1)]
        for index, parameter in enumerate(self.parameters):
            task, distill = two[0][index], two[1][index]
            if task is None and distill is None:
                continue
            delta = self.delta if task is not None and distill is not None else 0.0
            if task is None:
                task, distill = distill, None
            assert task is not None
            nothing = torch.zeros_like(parameter)
            self.task[index] = (self.momentum - delta) * self.task.get(index, nothing) + task + DECAY * parameter
            self.distill[index] = (self.momentum + delta) * self.distill.get(index, nothing) + (
                nothing if distill is None else distill
            )
            parameter.data -= LR * (self.task[index] + self.distill[index])

    def mean(self, losses: Sequence[Tensor | None]) -> list[Tensor | None]:
        if losses[0] is None:
            return [None] * len(self.parameters)
        with torch.enable_grad():
            total = torch.stack([loss for loss in losses if loss is not None]).mean()
        return list(torch.autograd.grad(total, self.parameters, retain_graph=True, allow_unused=True))


def by_hand(module: CombinedDistillation, accumulate: int, starts: int = 0) -> list[Tensor]:
    """Two epochs; soft targets and hint count from optimizer step ``starts`` on."""
    student, teacher = copy.deepcopy(module.student), copy.deepcopy(module.teacher)
    assert isinstance(student, MLP)
    assert isinstance(teacher, MLP)
    projector = copy.deepcopy(module.criteria["hint"].projectors[0])  # type: ignore[union-attr,index]
    loop = Loop([*student.parameters(), *projector.parameters()])
    waiting: list[Pair] = []
    for step, (rows, labels) in enumerate([*data(), *data()]):
        hidden, other = student.hidden(rows), teacher.hidden(rows).detach()
        logits, given = student.classifier(hidden), teacher(rows).detach()
        taught = 0.6 * soft(logits, given) + 2.0 * F.mse_loss(projector(hidden), other)
        task = 0.4 * F.cross_entropy(logits, labels)
        waiting.append((task, taught if step >= starts else None))
        if len(waiting) == accumulate:
            loop.step(waiting)
            waiting = []
    return loop.parameters


def trained(module: CombinedDistillation) -> list[Tensor]:
    return [*module.student.parameters(), *module.criteria.parameters()]


def all_close(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def before(folder: Path, **options: Any) -> CombinedDistillation:
    """The module as it is when its fit begins, its projector made."""
    module = make(OURS, **options)
    fit(module, None, folder, precision="64-true", data=data(), max_epochs=0)
    return module


class WithDOT(Theirs):
    """Their module calls the student twice."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows, labels = batch
        return F.cross_entropy(self.model(rows), labels) + F.cross_entropy(self.model(rows.flip(1)), labels)

    def configure_optimizers(self) -> Any:
        return OURS(self.model.parameters())
