"""Layers whose weights share a few values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Codebook(nn.Module):
    """Looks each weight of a layer up among a few values: a parametrization of ``torch.nn.utils.parametrize``.

    Its parameter, ``parametrizations.weight.original``, is the codebook. Which entry a weight has is fixed, so the gradient of
    an entry is the sum of those of its weights.

    Args:
        weight: Of the layer.
        entries: The largest size of the codebook.
    """

    assignment: Tensor

    def __init__(self, weight: Tensor, entries: int) -> None:
        super().__init__()
        values = weight.detach().float()
        self.start = codebook_of(values.flatten(), entries).to(weight)
        kind = torch.uint8 if len(self.start) <= 256 else torch.int32
        self.register_buffer("assignment", nearest_entries(values, self.start.float()).to(kind))

    def forward(self, codebook: Tensor) -> Tensor:
        """Return the weights."""
        return codebook[self.assignment.long()]

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the codebook that the weights were given."""
        return self.start


def share_values(layer: nn.Module, entries: int) -> None:
    """Replace a layer's weights by entries of a codebook."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", Codebook(weight, entries))


def has_codebook(layer: nn.Module) -> bool:
    """Return True if a layer's weights are entries of a codebook."""
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    return any(isinstance(one, Codebook) for one in layer.parametrizations["weight"])  # type: ignore[index]


def write_weights_out(network: nn.Module) -> None:
    """Turn codebooks back into plain weights, which keep their few values."""
    for layer in list(network.modules()):
        if has_codebook(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def codebook_of(values: Tensor, entries: int, rounds: int = 20) -> Tensor:
    """Return the means of k-means over numbers, started evenly between the least and the largest (Han et al. 2016).

    Args:
        values: ``[N]``.
        entries: At most so many means; fewer if there are fewer different numbers.
        rounds: Steps at most.
    """
    different: Tensor = torch.unique(values)
    if len(different) <= entries:
        return different
    means = torch.linspace(float(different[0]), float(different[-1]), entries)
    for _ in range(rounds):
        nearest = nearest_entries(values, means)
        counts = torch.zeros(entries).index_add_(0, nearest, torch.ones_like(values))
        sums = torch.zeros(entries).index_add_(0, nearest, values)
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), means).sort().values
        if torch.equal(moved, means):
            break
        means = moved
    return means


def nearest_entries(values: Tensor, means: Tensor) -> Tensor:
    """Return the place of the nearest of ascending means, for each value."""
    borders = (means[1:] + means[:-1]) / 2
    return torch.bucketize(values.contiguous(), borders)
