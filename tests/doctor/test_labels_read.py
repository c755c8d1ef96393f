"""The doctor looks at a teacher's classes where there are classes, whatever form the labels have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import HardTarget, LogitDistillation
from lit_distill.criteria import DKD
from lit_distill.doctor import examine

CLASSES = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(0))


def checks(module: LogitDistillation, target: Tensor, inputs: Tensor | None = None) -> list[str]:
    x = torch.randn(64, 4) if inputs is None else inputs
    return [finding.check for finding in examine(module, DataLoader(TensorDataset(x, target), batch_size=8), steps=4)]


def net(out: int = 3) -> nn.Linear:
    return nn.Linear(4, out)


def silent(out: int = 3) -> nn.Linear:
    """A teacher that knows nothing: it says the same of every sample."""
    network = net(out)
    nn.init.zeros_(network.weight)
    return network


@pytest.mark.parametrize(
    "target", [CLASSES, CLASSES.byte(), CLASSES.unsqueeze(1), F.one_hot(CLASSES, 3), F.one_hot(CLASSES, 3).float()]
)
@pytest.mark.parametrize("own", [False, True])
def test_a_teacher_at_chance_is_found_with_labels_of_every_form(target: Tensor, own: bool) -> None:
    options: dict[str, Any] = (
        {"criteria": {"d": DKD(), "h": HardTarget()}, "weights": {"d": 1.0, "h": 1.0}} if own else {}
    )
    assert checks(LogitDistillation(net(), silent(), **options), target) == ["teacher_chance"]


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("regression", torch.randn(64, 3)),
        ("embedding", CLASSES),
        ("multilabel", torch.randint(0, 2, (64, 3))),
    ],
)
def test_outputs_that_are_no_classes_of_one_choice_are_not_counted_as_such(task: Any, target: Tensor) -> None:
    assert checks(LogitDistillation(net(), net(), task=task), target) == []


def test_dense_class_probabilities_are_examined() -> None:
    maps = torch.randint(0, 3, (64, 2, 2))
    shares = F.one_hot(maps, 3).movedim(-1, 1).float()
    module = LogitDistillation(
        nn.Conv2d(3, 3, 1),
        nn.Conv2d(3, 3, 1),
        criteria={"d": DKD(), "h": HardTarget()},
        weights={"d": 1.0, "h": 1.0},
    )
    assert set(checks(module, shares, torch.randn(64, 3, 2, 2))) <= {"teacher_chance"}
