"""Walks of autograd's graph."""

from __future__ import annotations

import torch
from torch import nn

from lit_distill.utils.graph import reached_by, unreached_parameters


def test_unreached_parameters() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    assert unreached_parameters(model["a"](torch.ones(1, 2)).sum(), model) == ["b.weight", "b.bias"]


def test_what_is_reached_only_through_a_step_may_be_left_out() -> None:
    straight, rounded = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    value = (straight + rounded.round()).sum()
    assert reached_by(value) == {id(straight), id(rounded)}
    assert reached_by(value, through_steps=False) == {id(straight)}
    assert reached_by(value.detach()) == set()
