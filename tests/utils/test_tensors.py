"""The tensors of a network."""

from __future__ import annotations

import torch
from torch import nn

from lit_distill.utils.tensors import count_parameters, first_parameter, parameters_in


def test_count_parameters() -> None:
    assert count_parameters(nn.Linear(3, 4)) == 16


def test_first_parameter_has_the_networks_type_or_is_empty() -> None:
    assert first_parameter(nn.Linear(2, 2).half()).dtype == torch.float16
    assert first_parameter(nn.Identity()).numel() == 0


def test_parameters_in_optimizers_are_those_of_every_group() -> None:
    one, two, three = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizers = [torch.optim.SGD([{"params": [one]}, {"params": [two]}], 0.1)]
    assert parameters_in(optimizers) == {id(one), id(two)}
    assert id(three) not in parameters_in(optimizers)
