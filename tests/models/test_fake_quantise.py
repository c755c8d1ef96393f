"""Rounding to int8, against a computation of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.models.fake_quantise import FakeQuantise


def rounded(values: Tensor, scale: Tensor | float, zero: float, least: int, most: int) -> Tensor:
    return ((values / scale + zero).round().clamp(least, most) - zero) * scale


def test_activations_are_rounded_by_the_range_of_the_batches_that_were_seen() -> None:
    quantiser = FakeQuantise(0, 255, averaging=0.25)
    first, second = torch.linspace(-1, 3, 38), torch.linspace(-2, 7, 38)
    quantiser(first)
    assert (quantiser.low.item(), quantiser.high.item()) == (-1.0, 3.0)
    quantiser(second)
    low, high = -1 + 0.25 * (-2 + 1), 3 + 0.25 * (7 - 3)
    assert torch.allclose(torch.stack([quantiser.low, quantiser.high]), torch.tensor([low, high]))
    scale = (high - low) / 255
    quantiser.eval()
    assert torch.allclose(quantiser(second), rounded(second, scale, round(-low / scale), 0, 255), atol=1e-6)
    assert torch.allclose(
        torch.stack([quantiser.low, quantiser.high]), torch.tensor([low, high])
    )  # evaluation learns nothing


def test_weights_have_a_scale_per_channel_and_no_state() -> None:
    quantiser = FakeQuantise(-128, 127, symmetric=True, axis=0)
    weight = torch.randn(3, 2, 3, 3) * torch.tensor([0.1, 1, 10]).view(3, 1, 1, 1)
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    assert torch.allclose(quantiser(weight), rounded(weight, largest / 127.5, 0, -128, 127), atol=1e-5)
    assert not quantiser.state_dict()


def test_the_gradient_is_that_of_the_identity_inside_the_range_and_zero_outside() -> None:
    quantiser = FakeQuantise(-128, 127)
    quantiser(torch.tensor([-1.0, 1.0]))
    quantiser.eval()
    values = torch.tensor([-2.0, -0.5, 0.0, 0.3, 2.0], requires_grad=True)
    quantiser(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_nothing_is_rounded_before_a_batch_was_seen_and_nothing_moves_once_frozen() -> None:
    quantiser = FakeQuantise(0, 255).eval()
    values = torch.tensor([0.123, 4.567])
    assert torch.equal(quantiser(values), values)
    quantiser.train()(values)
    quantiser.frozen = True
    quantiser(10 * values)
    assert round(quantiser.high.item(), 4) == 4.567
