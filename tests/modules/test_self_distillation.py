"""Training with no teacher, through the Trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.criteria import HardTarget, OwnTeacher, SoftTarget, TeacherFree
from lit_distill.models import MLP
from lit_distill.modules import SelfDistillation

QuickTrainer = Callable[..., Trainer]


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(12, 4, generator=generator), torch.arange(12) % 3), batch_size=12)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def equals(student: MLP, alone: MLP, loss: Tensor) -> None:
    """That one step of SGD down a loss takes one network to where the other is."""
    loss.backward()
    sgd(alone.parameters()).step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value)


def test_exits_teach_the_layers_before_them_and_not_the_last(quick_trainer: QuickTrainer) -> None:
    student = MLP(4, (6, 5), 3)
    module = SelfDistillation(student, "hidden.0", optimizer=sgd)
    x, y = next(iter(loader()))
    alone = copy.deepcopy(student)
    quick_trainer(limit_train_batches=0).fit(module, loader())  # makes the exits, and trains nothing
    own = module.criteria["own"]
    assert isinstance(own, OwnTeacher)
    exit_ = copy.deepcopy(own.exits[0])
    quick_trainer().fit(module, loader())
    first = alone.hidden[0](x)
    deepest = alone.classifier(alone.hidden[1](first))
    early, told = exit_(first), (deepest.detach() / 3).softmax(-1)
    soft = 9 * F.kl_div((early / 3).log_softmax(-1), told, reduction="batchmean")
    equals(student, alone, F.cross_entropy(deepest, y) + 0.7 * F.cross_entropy(early, y) + 0.3 * soft)


def test_a_virtual_teacher_needs_no_network(quick_trainer: QuickTrainer) -> None:
    student = MLP(4, (6,), 3)
    alone = copy.deepcopy(student)
    criteria = {"hard": HardTarget(), "virtual": TeacherFree(0.9, 5.0)}
    module = SelfDistillation(student, criteria=criteria, weights={"hard": 0.9, "virtual": 0.1}, optimizer=sgd)
    fit = quick_trainer()
    fit.fit(module, loader(), loader())
    x, y = next(iter(loader()))
    p = torch.full((12, 3), 0.05).scatter_(1, y.unsqueeze(1), 0.9) ** (1 / 5)
    z = alone(x)
    virtual = 25 * F.kl_div((z / 5).log_softmax(-1), p / p.sum(1, keepdim=True), reduction="batchmean")
    equals(student, alone, 0.9 * F.cross_entropy(z, y) + 0.1 * virtual)
    assert not [name for name in fit.callback_metrics if "teacher" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_layer": "hidden.9"}, "no layer 'hidden.9' in the student MLP"),
        (
            {"criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}},
            "'soft' compares .* a teacher, and there is none",
        ),
        (
            {"student_layer": "hidden.0", "criteria": {"hard": HardTarget()}, "weights": {"hard": 1.0}},
            "student_layer belongs to the default criteria",
        ),
        (
            {"criteria": {"virtual": TeacherFree()}, "weights": {"virtual": 1.0}, "task": "binary"},
            "for the task 'multi",
        ),
    ],
)
def test_mistakes_are_found_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfDistillation(MLP(4, (6,), 3), **options)
