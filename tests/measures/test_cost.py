"""Costs against sums by hand."""

from __future__ import annotations

import io

import torch
from torch import nn

from lit_distill.measures import cost_of
from lit_distill.models import SmallCNN


def test_multiplications_of_convolutions_and_matrices() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 25, 7))
    assert cost_of(network, torch.zeros(1, 3, 5, 5)).macs == 25 * 8 * 3 * 9 + 200 * 7
    assert cost_of(network, torch.zeros(2, 3, 5, 5)).macs == 2 * (25 * 8 * 3 * 9 + 200 * 7)


def test_multiplications_inside_fused_layers_are_counted() -> None:
    lstm = nn.LSTM(8, 16, batch_first=True)
    assert cost_of(lstm, torch.zeros(1, 5, 8)).macs == 5 * 4 * 16 * (8 + 16)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, mixing, widening = 4 * 5 * 16 * 16, 2 * 5 * 5 * 16, 2 * 5 * 16 * 32
    assert cost_of(layer, torch.zeros(1, 5, 16)).macs == projections + mixing + widening


def test_the_file_is_as_large_as_torch_writes_it() -> None:
    network = SmallCNN(4)
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    cost = cost_of(network, torch.zeros(1, 1, 8, 8))
    assert cost.file_bytes == len(content.getvalue())
    held = [*network.parameters(), *network.buffers()]
    assert cost.weight_bytes == sum(one.numel() * one.element_size() for one in held)


def test_the_peak_holds_what_lives_at_the_same_time() -> None:
    class Adds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            doubled = x + x  # 400 bytes
            view = doubled[:50]  # none
            tripled = doubled + x  # 400 more
            del doubled, view
            return tripled * 2  # 400, and the first 400 are free

    assert cost_of(Adds(), torch.zeros(100)).peak_bytes == 800


def test_the_network_stays_as_it_was() -> None:
    network = SmallCNN(4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cost_of(network, torch.rand(4, 1, 8, 8))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_matrices_has_no_count() -> None:
    assert cost_of(nn.ReLU(), torch.zeros(1, 4)).macs is None
