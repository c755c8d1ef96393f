"""Divergences and mixtures of distributions."""

from __future__ import annotations

import pytest
import torch

from lit_distill.criteria.ops.divergence import favour_small, log_mixture, normalised


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_log_mixture(dim: int, temperature: float) -> None:
    a, b = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    per_row = torch.rand(2, 1, 1, dtype=torch.float64)
    expected = per_row * torch.softmax(a / temperature, dim) + (1 - per_row) * torch.softmax(b / temperature, dim)
    torch.testing.assert_close(log_mixture([a, b], [per_row, 1 - per_row], temperature, dim).exp(), expected)


def test_a_weight_of_zero_leaves_out_to_the_last_bit() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    expected = torch.log_softmax(a / 4, -1)
    assert torch.equal(log_mixture([a, b], [1.0, 0.0], 4.0), expected)
    ones = torch.ones(4, 1)
    assert torch.equal(log_mixture([a, b], [ones, 1 - ones], 4.0), expected)


def test_favour_small() -> None:
    shares = torch.tensor([[0.5, 1.0], [0.3, 0.0], [0.2, 0.0]])
    torch.testing.assert_close(favour_small(shares), torch.tensor([[0.25, 0.0], [0.35, 0.5], [0.4, 0.5]]))
    assert favour_small(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("given", "expected"), [(None, [0.5, 0.5]), ([3, 1], [0.75, 0.25]), ([0.0, 2.0], [0.0, 1.0])])
def test_normalised(given: list[float] | None, expected: list[float]) -> None:
    assert normalised(given, 2) == expected
