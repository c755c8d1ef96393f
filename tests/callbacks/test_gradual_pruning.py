"""Masks that grow during a fit: exactly how many weights are zero, which, and what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, FeatureDistillation, LogitDistillation, load
from lit_distill.callbacks import GradualPruning
from lit_distill.models import SmallCNN
from tests.plain import Plain, quiet_trainer

LAYERS = ["stage1.0", "stage2.0", "stage3.0", "classifier"]


def digits() -> DataLoader[Any]:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.rand(16, 1, 8, 8), torch.arange(16) % 10), batch_size=8)


def zeros(network: nn.Module) -> list[int]:
    return [int((network.get_submodule(name).weight == 0).sum()) for name in LAYERS]


def sizes() -> list[int]:
    return [int(SmallCNN(4).get_submodule(name).weight.numel()) for name in LAYERS]


def fit(module: LightningModule, *callbacks: Callback, epochs: int = 6, **options: Any) -> Trainer:
    checkpoint = options.pop("ckpt_path", None)
    trainer = quiet_trainer(max_epochs=epochs, enable_checkpointing=False, callbacks=list(callbacks), **options)
    trainer.fit(module, digits(), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return trainer


def distillation() -> LogitDistillation:
    torch.manual_seed(0)
    teacher = SmallCNN(8)
    return LogitDistillation(SmallCNN(4), teacher, optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))


class Counting(Callback):
    """Notes the zeros of each layer in the forward pass of each batch."""

    def __init__(self) -> None:
        self.found: list[list[int]] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self.found.append(zeros(pl_module.get_submodule("student")))


@pytest.mark.parametrize("schedule", ["cubic", "linear"])
def test_exactly_the_scheduled_share_of_each_layer_is_zero_in_each_batch(schedule: Any) -> None:
    counting = Counting()
    fit(distillation(), GradualPruning(0.8, start=1, end=4, schedule=schedule), counting)
    shares = [0.8 * (t / 4 if schedule == "linear" else 1 - (1 - t / 4) ** 3) for t in (0, 1, 2, 3, 4, 4)]
    expected = [[round(share * size) for size in sizes()] for share in shares for _ in range(2)]  # two batches
    assert counting.found == expected


def test_the_smallest_weights_go_and_stay_zero() -> None:
    module = distillation()
    before = module.student.stage2[0].weight.detach().clone()  # type: ignore[index,union-attr]
    callback = GradualPruning(0.5, end=0)
    fit(module, callback, epochs=1)
    smallest = before.abs().flatten().argsort()[: before.numel() // 2]
    weight = module.student.stage2[0].weight  # type: ignore[index,union-attr]
    assert set(smallest.tolist()) == set((weight.flatten() == 0).nonzero().flatten().tolist())
    assert callback.sparsity == pytest.approx(0.5, abs=0.01)


def test_only_the_students_weights_are_pruned() -> None:
    torch.manual_seed(0)
    teacher = SmallCNN(8)
    module = FeatureDistillation(SmallCNN(4), teacher, "stage2", "stage2")
    before = copy.deepcopy(teacher.state_dict())
    names = list(module.student.state_dict())
    fit(module, GradualPruning(0.9, end=0, ignore=["classifier"]), epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(bool((parameter == 0).any()) for parameter in module.criteria.parameters() if parameter.dim() > 1)
    assert list(module.student.state_dict()) == names
    assert not any(part._forward_pre_hooks for part in module.student.modules())
    assert zeros(module.student)[-1] == 0
    assert all(bool((part.weight != 0).all()) for part in module.student.modules() if isinstance(part, nn.BatchNorm2d))


def test_global_pruning_ranks_all_layers_together() -> None:
    module = distillation()
    weights = torch.cat([module.student.get_submodule(name).weight.detach().abs().flatten() for name in LAYERS])
    fit(module, GradualPruning(0.6, end=0, global_pruning=True), epochs=1)
    bound = weights.sort().values[round(0.6 * len(weights)) - 1]
    assert sum(zeros(module.student)) == round(0.6 * sum(sizes()))
    torch.manual_seed(0)
    SmallCNN(8)
    fresh = SmallCNN(4)
    for name in LAYERS:
        gone = module.student.get_submodule(name).weight == 0
        assert torch.equal(gone, fresh.get_submodule(name).weight.abs() <= bound), name


def test_a_pattern_keeps_the_largest_of_each_group_of_input_channels() -> None:
    module = distillation()
    before = {name: module.student.get_submodule(name).weight.detach().clone() for name in LAYERS}
    fit(module, GradualPruning(pattern="2:4", end=1), epochs=2)
    assert zeros(module.student) == [0, *(size // 2 for size in sizes()[1:])]  # the first layer has one input channel
    for name in LAYERS[1:]:
        kept = (module.student.get_submodule(name).weight != 0).movedim(1, -1).reshape(-1, 4)
        assert kept.sum(1).eq(2).all()
    fit(fresh := distillation(), GradualPruning(pattern="1:4", end=0), epochs=1)
    for name in LAYERS[1:]:
        groups = before[name].abs().movedim(1, -1).reshape(-1, 4)
        kept = (fresh.student.get_submodule(name).weight != 0).movedim(1, -1).reshape(-1, 4)
        assert torch.equal(kept.int().argmax(1), groups.argmax(1)), name


def test_a_fit_goes_on_to_the_bit_and_its_checkpoint_loads_as_usual(tmp_path: Path) -> None:
    whole, half, rest = distillation(), distillation(), distillation()
    fit(whole, GradualPruning(0.8, end=4))
    torch.manual_seed(0)
    trainer = quiet_trainer(max_epochs=6, enable_checkpointing=False, callbacks=[GradualPruning(0.8, end=4), Stop(3)])
    trainer.fit(half, digits())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    content = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert set(content["state_dict"]) == set(half.state_dict())
    assert zeros(load(SmallCNN(4), tmp_path / "half.ckpt")) == zeros(half.student)
    fit(rest, GradualPruning(0.8, end=4), ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[name], value), name


class Stop(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epoch


def test_a_fit_that_ends_before_says_so() -> None:
    with pytest.warns(
        UserWarning, match="ended before GradualPruning did: .* are zero, and 80% would have been from epoch 4"
    ):
        fit(distillation(), GradualPruning(0.8, end=4), Stop(2))


def test_a_module_of_ones_own_names_its_network() -> None:
    module = Plain(SmallCNN(4), momentum=0.9)
    fit(module, Distill(SmallCNN(8)), GradualPruning(0.5, end=1, module="model"), epochs=2)
    assert zeros(module.model) == [round(0.5 * size) for size in sizes()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of the two"),
        ({"amount": 0.5, "pattern": "2:4"}, "give one of the two"),
        ({"amount": 1.0}, r"amount must be in \(0, 1\)"),
        ({"pattern": "4:2"}, "pattern must be n:m"),
        ({"pattern": "half"}, "pattern must be n:m"),
        ({"amount": 0.5, "schedule": "cubik"}, "schedule"),
        ({"amount": 0.5, "start": 3, "end": 2}, "end must be at least 3"),
        ({"pattern": "2:4", "global_pruning": True}, "choose one"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradualPruning(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0.5, "end": 6}, "start of epoch 6, and the fit has 6 epochs"),
        ({"amount": 0.5, "ignore": ["fc"]}, "no layer 'fc'"),
        ({"amount": 0.5, "ignore": ["*"]}, "finds no layer"),
    ],
)
def test_wrong_arguments_for_a_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(distillation(), GradualPruning(**options))
