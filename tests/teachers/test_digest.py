"""A network's digest is of all its weights and buffers, whatever their form."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from lit_distill.models import SmallCNN
from lit_distill.teachers.digest import network_digest, tensor_digests


def test_every_tensor_counts() -> None:
    model = SmallCNN(2)
    known = network_digest(model)
    assert known == network_digest(copy.deepcopy(model))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        before = tensor.detach().clone()
        with torch.no_grad():
            tensor.add_(1)
        assert network_digest(model) != known, name
        with torch.no_grad():
            tensor.copy_(before)
    assert network_digest(model) == known


def test_what_does_not_count() -> None:
    model = SmallCNN(2)
    known = network_digest(model)
    assert network_digest(torch.compile(model)) == known
    assert network_digest(copy.deepcopy(model).to(memory_format=torch.channels_last).eval()) == known
    with torch.inference_mode():
        assert network_digest(model) == known
    assert network_digest(copy.deepcopy(model).double()) != known


def test_buffers_that_no_checkpoint_has_count() -> None:
    model = nn.Module()
    model.register_buffer("hidden", torch.zeros(2), persistent=False)
    known = network_digest(model)
    model.hidden += 1
    assert network_digest(model) != known


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.LSTM(4, 4)])
def test_packed_weights_count(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            torch.ao.quantization.quantize_dynamic(nn.Sequential(part), {type(layer)})
            for part in (layer, type(layer)(4, 4))
        )
    assert network_digest(one) == network_digest(copy.deepcopy(one))
    assert network_digest(one) != network_digest(other)


def test_other_formats() -> None:
    model = SmallCNN(2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(model)
        frozen, other = (torch.jit.freeze(torch.jit.script(net)) for net in (copy.deepcopy(model), SmallCNN(2).eval()))
        again = torch.jit.freeze(scripted)
    assert network_digest(scripted) == network_digest(model)
    assert network_digest(frozen) == network_digest(again) != network_digest(other)
    program = torch.export.export(model, (torch.ones(2, 1, 8, 8),)).module()
    assert set(tensor_digests(program).values()) == set(tensor_digests(model).values())


def test_tensors_without_values() -> None:
    assert network_digest(nn.LazyLinear(3)) == network_digest(nn.LazyLinear(3))
    with torch.device("meta"):
        one, other, wide = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 3)
    assert network_digest(one) == network_digest(other) != network_digest(wide)
    assert network_digest(nn.ReLU()) == network_digest(nn.Tanh())
