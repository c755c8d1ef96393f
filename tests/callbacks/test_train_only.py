"""TrainOnly: some layers learn, and nothing else of the network changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill.callbacks import TrainOnly
from lit_distill.modules import SupervisedModule
from tests.conftest import QuickTrainer


def network() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    return nn.Sequential(body, nn.Linear(8, 3))


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(16, 4, generator=generator), torch.arange(16) % 3), batch_size=8)


def test_the_rest_keeps_weights_and_statistics(quick_trainer: QuickTrainer) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    modes: list[bool] = []
    net[0][1].register_forward_hook(
        lambda module, *_: modes.append(module.training) if torch.is_grad_enabled() else None
    )  # type: ignore[index]
    module = SupervisedModule(net)
    quick_trainer(callbacks=[TrainOnly(["1"])], max_epochs=3).fit(module, loader(), loader())
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.weight", "1.bias"}
    assert modes[-6:] == [False] * 6  # after validations, too
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_only_what_trains_is_in_the_optimizer(quick_trainer: QuickTrainer) -> None:
    trainer = quick_trainer(callbacks=[TrainOnly(["1"])])
    module = SupervisedModule(network())
    trainer.fit(module, loader())
    held = {id(one) for group in trainer.optimizers[0].param_groups for one in group["params"]}
    assert held == {id(one) for one in module.student[1].parameters()}  # type: ignore[index]


@pytest.mark.parametrize(
    ("layer", "words"), [("2", "no layer '2' in the student Sequential"), ("0.2", "nothing to train")]
)
def test_layers_that_cannot_train_are_refused(quick_trainer: QuickTrainer, layer: str, words: str) -> None:
    module = SupervisedModule(network())
    with pytest.raises(ValueError, match=words):
        quick_trainer(callbacks=[TrainOnly([layer])]).fit(module, loader())
    assert all(parameter.requires_grad for parameter in module.parameters())
