"""Rows and sums over all training processes."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def distributed() -> bool:
    """Return True if several processes train together."""
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return available and torch.distributed.get_world_size() > 1


def of_first_process(value: str | None) -> str | None:
    """Return the first process's text, in every process; all must call it at the same time."""
    held = [value]
    if distributed():
        torch.distributed.broadcast_object_list(held)
    return held[0]


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows ``[N, D]`` of every process, in the order of their ranks, without a gradient.

    All processes must call it at the same time, with rows ``[n, D]`` of one width; their numbers may differ.
    """
    rows = rows.detach()
    if not distributed():
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = int(torch.stack(counts).max())
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    everyone = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(everyone, padded)
    return torch.cat([found[: int(count)] for found, count in zip(everyone, counts, strict=True)])


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient."""
    value = value.detach().clone()
    if distributed():
        torch.distributed.all_reduce(value)
    return value
