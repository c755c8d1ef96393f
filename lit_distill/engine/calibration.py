"""The expected calibration error in bins: its memory does not grow with the data."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class BinnedCalibrationError(Metric):
    """How far confidence is from accuracy, the mean over bins of confidence weighted by how much is in each.

    The value is that of torchmetrics' calibration errors with the norm l1, which keep every prediction until the end of the
    epoch; this keeps three numbers a bin.

    Args:
        bins: Number of bins of equal width.
        dtype: Of the sums: in float32 they stop growing at some 10^7 predictions a bin; not every device has float64.
    """

    full_state_update = False
    counts: Tensor
    confidences: Tensor
    hits: Tensor

    def __init__(self, bins: int = 15, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.bins = bins
        for name in ("counts", "confidences", "hits"):
            # One more: a confidence of exactly 1 has a place of its own, as in torchmetrics.
            self.add_state(name, torch.zeros(bins + 1, dtype=dtype), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, hit: Tensor) -> None:
        """Add predictions.

        Args:
            confidence: In [0, 1], ``[N]``.
            hit: Whether each came true, ``[N]``.
        """
        boundaries = torch.linspace(0, 1, self.bins + 1, dtype=confidence.dtype, device=confidence.device)
        place = (torch.bucketize(confidence.contiguous(), boundaries, right=True) - 1).clamp(0, self.bins)
        for state, values in (
            (self.counts, torch.ones_like(confidence)),
            (self.confidences, confidence),
            (self.hits, hit),
        ):
            state.scatter_add_(0, place, values.to(state.dtype))

    def compute(self) -> Tensor:
        """The error so far; 0 where there is nothing."""
        return ((self.hits - self.confidences).abs().sum() / self.counts.sum().clamp(min=1)).float()
