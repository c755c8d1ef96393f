"""A small set-up of every way to distil, for the tests that try each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from lit_distill import (
    CombinedDistillation,
    Distill,
    EMATeacher,
    FeatureDistillation,
    GradientNorm,
    HardTarget,
    Hint,
    JointTeacher,
    LogitDistillation,
    MultiTaskDistillation,
    MutualDistillation,
    RecordedTeacher,
    SelfDistillation,
    SoftTarget,
)
from lit_distill.criteria import CRD, QueueKL
from lit_distill.optim import DOT
from lit_distill.schedules import Between, Linear
from tests.plain import Plain

Made = tuple[LightningModule, list[Callback]]


class Two(nn.Module):
    """A trunk with a head for each of two tasks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, width), nn.ReLU())
        self.one, self.two = nn.Linear(width, 3), nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        found = self.trunk(inputs)
        return {"one": self.one(found), "two": self.two(found)}


def network(width: int, drop: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Dropout(drop), nn.Linear(width, 3))


def _hints() -> dict[str, Any]:
    return {"hard": HardTarget(), "soft": SoftTarget(), "hint": Hint("1", "1")}


_WEIGHTS = {"hard": 0.5, "soft": 0.5, "hint": 1.0}
_SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def _logit(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return LogitDistillation(student, teacher, optimizer=_SGD), []


def _feature(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    student[-1].requires_grad_(False)  # type: ignore[index]
    return FeatureDistillation(
        student, teacher, criteria={"hint": Hint("1", "1")}, weights={"hint": 1.0}, optimizer=_SGD
    ), []


def _combined(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return CombinedDistillation(student, teacher, criteria=_hints(), weights=_WEIGHTS, optimizer=_SGD), []


def _balanced(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    balance = GradientNorm("soft", every=2)
    return CombinedDistillation(
        student, teacher, criteria=_hints(), weights=_WEIGHTS, balance=balance, optimizer=_SGD
    ), []


def _scheduled(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    plans = {"soft.temperature": Linear(4.0, 1.0, until=3), "hint.weight": Between(1.0, begin=1, end=3)}
    weights = {"hard": 0.5, "soft": 0.5}
    return CombinedDistillation(
        student, teacher, criteria=_hints(), weights=weights, schedules=plans, optimizer=_SGD
    ), []


def _dot(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return LogitDistillation(student, teacher, optimizer=partial(DOT, lr=0.1)), []


def _mutual(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return MutualDistillation([student, network(6)], optimizer=_SGD), []


def _multitask(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    heads = {"one": "one", "two": "two"}
    return MultiTaskDistillation(Two(6), heads, Two(10), optimizer=_SGD), []


def _self(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return SelfDistillation(student, student_layer="1", optimizer=_SGD), []


def _ema(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return LogitDistillation(student, EMATeacher(), optimizer=_SGD), []


def _joint(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return CombinedDistillation(student, JointTeacher(teacher), criteria=_hints(), weights=_WEIGHTS, optimizer=_SGD), []


def _recorded(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    return LogitDistillation(student, RecordedTeacher(teacher, folder / "record", views=2), optimizer=_SGD), []


def _queue(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    criteria = {"soft": SoftTarget(), "queue": QueueKL("1", "1", size=16)}
    return CombinedDistillation(
        student, teacher, criteria=criteria, weights={"soft": 0.5, "queue": 0.5}, optimizer=_SGD
    ), []


def _crd(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    criteria = {"soft": SoftTarget(), "crd": CRD("1", "1", embedding=4, queue=16)}
    return CombinedDistillation(
        student, teacher, criteria=criteria, weights={"soft": 0.5, "crd": 0.5}, optimizer=_SGD
    ), []


def _distill(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    criteria = {"soft": SoftTarget(), "hint": Hint("1", "1")}
    return Plain(student, momentum=0.9), [Distill(teacher, criteria, {"soft": 0.9, "hint": 0.5})]


def _found(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    plans = {"soft.temperature": Linear(4.0, 1.0, until=3)}
    module = CombinedDistillation(
        student, teacher, criteria=_hints(), weights={"soft": 0.5}, schedules=plans, optimizer=_SGD
    )
    return module, []


def _found_in_distill(student: nn.Module, teacher: nn.Module, folder: Path) -> Made:
    guest = Distill(teacher, {"soft": SoftTarget(), "hint": Hint("1", "1")}, {"soft": "auto"})
    return Plain(student, momentum=0.9), [guest]


_MAKERS: dict[str, Callable[[nn.Module, nn.Module, Path], Made]] = {
    "logit": _logit,
    "feature": _feature,
    "combined": _combined,
    "balanced": _balanced,
    "scheduled": _scheduled,
    "DOT": _dot,
    "mutual": _mutual,
    "multitask": _multitask,
    "self": _self,
    "EMA": _ema,
    "joint": _joint,
    "recorded": _recorded,
    "queue": _queue,
    "CRD": _crd,
    "Distill": _distill,
}
SCHEMES = list(_MAKERS)
FOUND: dict[str, Callable[[nn.Module, nn.Module, Path], Made]] = {
    "weights found": _found,
    "weights found by Distill": _found_in_distill,
}


def make(scheme: str, folder: Path, drop: float = 0.0) -> Made:
    """The module and the callbacks of a scheme, alike each time.

    Args:
        scheme: One of ``SCHEMES`` or ``FOUND``.
        folder: For what it records.
        drop: The student's dropout.
    """
    torch.manual_seed(0)
    teacher = network(10)
    student = copy.deepcopy(network(6, drop))
    return (_MAKERS | FOUND)[scheme](student, teacher, folder)


def labels_of(scheme: str, labels: Tensor) -> Any:
    """A batch's labels as a scheme takes them."""
    return {"one": labels, "two": (labels + 1) % 3} if scheme == "multitask" else labels
