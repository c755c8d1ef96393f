"""Fake quantisation: rounds a tensor to the values that int8 can hold, and lets gradients through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMALLEST = 1e-7  # a scale, where all values are zero


class FakeQuantise(nn.Module):
    """Rounds to integers times a scale, with the gradient of the identity inside the range and 0 outside.

    Weights, which have a scale per channel, take it from their present values. Activations have one scale, from a moving
    average of the least and largest value in training batches; evaluation never moves it. All state is floating point, so that
    averaged weights (EMA) stay right.

    Args:
        least: The least integer.
        most: The largest integer.
        symmetric: Zero is the integer 0.
        axis: The dimension of the channels; None for one scale.
        averaging: The share of a new batch in the moving average. torchao's 0.01 lags so far behind in a short fit that weights
            learn to rely on clipping, which a runtime's own ranges do not do.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, least: int, most: int, symmetric: bool = False, axis: int | None = None, averaging: float = 0.3
    ) -> None:
        super().__init__()
        self.least, self.most, self.symmetric = least, most, symmetric
        self.axis, self.averaging = axis, averaging
        self.enabled, self.frozen = True, False
        if axis is None:
            self.register_buffer("low", torch.zeros(()))
            self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Return the values rounded; as they are if no training batch was seen."""
        if not self.enabled:
            return values
        exact = values.float()
        if self.axis is not None:
            rounded = self._by_channel(exact, self.axis)
        else:
            if self.training and not self.frozen:
                self._observe(exact.detach())
            scale, zero = self._scale(self.low, self.high)
            found = torch.fake_quantize_per_tensor_affine(exact, scale, zero, self.least, self.most)
            rounded = torch.where(self.high > self.low, found, exact)
        return rounded.to(values.dtype)

    def _by_channel(self, weight: Tensor, axis: int) -> Tensor:
        others = [place for place in range(weight.dim()) if place != axis]
        rows = weight.detach()
        scale, zero = self._scale(rows.amin(others), rows.amax(others))
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, self.least, self.most)

    @torch.no_grad()
    def _observe(self, values: Tensor) -> None:
        """Move the range towards that of a batch; the first batch gives it."""
        seen = self.high > self.low
        for kept, found in ((self.low, values.amin().clamp_max(0)), (self.high, values.amax().clamp_min(0))):
            kept.copy_(torch.where(seen, torch.lerp(kept, found, self.averaging), found))

    def _scale(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale and the integer that stands for zero."""
        if self.symmetric:
            scale = torch.maximum(-low, high) / ((self.most - self.least) / 2)
            return scale.clamp_min(_SMALLEST), torch.zeros_like(scale, dtype=torch.int32)
        scale = ((high - low) / (self.most - self.least)).clamp_min(_SMALLEST)
        zero = (self.least - (low / scale).round()).clamp(self.least, self.most)
        return scale, zero.to(torch.int32)

    def extra_repr(self) -> str:
        kind = f"axis={self.axis}" if self.axis is not None else f"low={self.low:.3g}, high={self.high:.3g}"
        return f"{self.least} to {self.most}, {kind}"
