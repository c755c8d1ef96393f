"""A teacher that trains with its student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, HardTarget, Hint, JointTeacher, LogitDistillation, SoftTarget
from lit_distill.models import MLP
from lit_distill.outputs import Outputs


@pytest.fixture
def data() -> TensorDataset:
    return TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def distillation(teacher: JointTeacher, soft: float = 1.0, hint: float = 1.0) -> CombinedDistillation:
    criteria = {"hard": HardTarget(), "soft": SoftTarget(2.0), "hint": Hint("hidden", "hidden")}
    weights = {"hard": 1.0, "soft": soft, "hint": hint}
    return CombinedDistillation(MLP(4, (5,), 3), teacher, criteria=criteria, weights=weights, optimizer=sgd)


def test_it_is_put_in_train_mode_with_gradients() -> None:
    model = MLP(4, (5,), 3).eval().requires_grad_(False)
    teacher = JointTeacher(model)
    assert teacher.registered is model
    assert not teacher.frozen
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_its_weight_is_above_zero(weight: float) -> None:
    with pytest.raises(ValueError, match="own weight must be above 0"):
        JointTeacher(MLP(4), weight=weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_own_loss(smoothing: float) -> None:
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    own = JointTeacher(MLP(4, (5,), 3), label_smoothing=smoothing, weight=2.5).own_loss(Outputs(logits), target)
    torch.testing.assert_close(own, 2.5 * F.cross_entropy(logits, target, label_smoothing=smoothing))


def test_it_needs_labels(quick_trainer: Callable[..., Trainer]) -> None:
    module = LogitDistillation(
        MLP(4, (5,), 3), JointTeacher(MLP(4, (5,), 3)), criteria={"soft": SoftTarget()}, weights={"soft": 1.0}
    )
    with pytest.raises(ValueError, match="trains with its student needs labels"):
        quick_trainer().fit(module, DataLoader(TensorDataset(torch.randn(4, 4)), batch_size=2))


@pytest.mark.parametrize("follow", [False, True])
def test_gradient_of_the_criteria(data: TensorDataset, follow: bool, quick_trainer: Callable[..., Trainer]) -> None:
    """The teacher's gradient is its own loss's alone, to the last bit, unless it follows."""
    model = MLP(4, (5,), 3)
    alone = copy.deepcopy(model)
    seen: list[dict[str, Tensor]] = []

    class Watching(CombinedDistillation):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    module = distillation(JointTeacher(model, follow=follow))
    module.__class__ = Watching
    quick_trainer(max_steps=1).fit(module, DataLoader(data, batch_size=12))
    x, target = data.tensors
    F.cross_entropy(alone(x), target).backward()
    same = [torch.equal(seen[0][name], parameter.grad) for name, parameter in alone.named_parameters()]
    assert all(same) if not follow else not any(same)


def test_it_learns_as_it_would_alone(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    model = MLP(4, (5,), 3)
    alone = copy.deepcopy(model)
    start = copy.deepcopy(model.state_dict())
    module = distillation(JointTeacher(model))
    student = copy.deepcopy(module.student.state_dict())
    loader = DataLoader(data, batch_size=4)
    quick_trainer(max_epochs=3).fit(module, loader)
    optimizer = sgd(alone.parameters())
    for _ in range(3):
        for x, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(alone(x), target).backward()
            optimizer.step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)
        assert not torch.equal(value, start[name])
    assert all(not torch.equal(value, student[name]) for name, value in module.student.state_dict().items())


def test_it_belongs_to_the_module() -> None:
    module = distillation(JointTeacher(MLP(4, (5,), 3)))
    assert [name for name, _ in module.named_parameters() if name.startswith("joint_teacher.")]
    twin = copy.deepcopy(module)
    assert twin.joint_teacher is twin.teacher
    assert twin.joint_teacher is not module.joint_teacher


def test_predict_has_no_gradient() -> None:
    model = nn.Linear(4, 3)
    teacher = JointTeacher(model)
    x = torch.randn(2, 4)
    assert teacher(x).logits.requires_grad
    assert not teacher.predict(x).logits.requires_grad
    torch.testing.assert_close(teacher.predict(x).logits, model(x))


def test_validation_sees_it_in_evaluation_mode(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    class Recording(nn.Sequential):
        modes: list[bool]

        def forward(self, x: Tensor) -> Tensor:
            self.modes.append(self.training)
            return super().forward(x)

    model = Recording(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model.modes = []
    module: LightningModule = LogitDistillation(MLP(4, (5,), 3), JointTeacher(model))
    loader = DataLoader(data, batch_size=6)
    quick_trainer(num_sanity_val_steps=0).fit(module, loader, loader)
    assert model.modes[-4:] == [True, True, False, False]
