"""Running mean and covariance of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.utils.distributed import sum_over_processes


class Statistics(nn.Module):
    """Mean and covariance of vectors over all batches so far and all processes, in buffers that are checkpointed.

    The whole covariance ``[D, D]`` is kept if ``full``, or else only its diagonal ``[D]``.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, width: int, full: bool) -> None:
        super().__init__()
        self.full = full
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scatter", torch.zeros(width, width) if full else torch.zeros(width))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Add a batch of vectors ``[n, D]``, in every process at the same time."""
        count, mean, scatter = self._of(rows)
        before = self.count.to(count)
        total = before + count
        gap = mean - self.mean.to(mean)
        # Chan, Golub and LeVeque 1979: two sets' moments as one's, without the cancellation of sums of squares.
        self.scatter += (scatter + self._product(gap, gap) * (before * count / total)).to(self.scatter.dtype)
        self.mean += (gap * (count / total)).to(self.mean.dtype)
        self.count.copy_(total)

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean ``[D]`` and covariance so far; those of ``rows`` if nothing has been added yet."""
        if int(self.count) == 0:
            count, mean, scatter = self._of(rows, alone=True)
            return mean, scatter / count
        return self.mean.to(rows), self.scatter.to(rows) / self.count

    @torch.no_grad()
    def _of(self, rows: Tensor, alone: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return the number of rows, their mean, and the sum of squares or products around it, over all processes."""
        shared = torch.cat([rows.new_tensor([len(rows)]), rows.sum(0)])
        shared = shared if alone else sum_over_processes(shared)
        count, mean = shared[0], shared[1:] / shared[0]
        centred = rows - mean
        scatter = centred.T @ centred if self.full else centred.square().sum(0)
        return count, mean, scatter if alone else sum_over_processes(scatter)

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.outer(a, b) if self.full else a * b
