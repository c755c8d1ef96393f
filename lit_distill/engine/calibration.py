"""The expected calibration error, in constant memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class BinnedCalibrationError(Metric):
    r"""The gap between confidence and accuracy, averaged over bins of confidence and weighted by their size.

    $\mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|$, the value of torchmetrics with the norm l1.
    Torchmetrics keeps every prediction until the end of the epoch; this class keeps three numbers per bin. In float32 the
    sums stop growing at about $10^7$ predictions per bin; not every device has float64.
    """

    full_state_update = False
    counts: Tensor
    confidences: Tensor
    hits: Tensor

    def __init__(self, bins: int = 15, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.bins = bins
        for name in ("counts", "confidences", "hits"):
            # One more: a confidence of exactly 1 has its own bin, as in torchmetrics.
            self.add_state(name, torch.zeros(bins + 1, dtype=dtype), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, hit: Tensor) -> None:
        """Add predictions: confidences in [0, 1] and, for each, 1 if it was right, else 0; both ``[N]``."""
        boundaries = torch.linspace(0, 1, self.bins + 1, dtype=confidence.dtype, device=confidence.device)
        place = (torch.bucketize(confidence.contiguous(), boundaries, right=True) - 1).clamp(0, self.bins)
        for state, values in (
            (self.counts, torch.ones_like(confidence)),
            (self.confidences, confidence),
            (self.hits, hit),
        ):
            state.scatter_add_(0, place, values.to(state.dtype))

    def compute(self) -> Tensor:
        """Return the error so far; 0 without predictions."""
        return ((self.hits - self.confidences).abs().sum() / self.counts.sum().clamp(min=1)).float()
