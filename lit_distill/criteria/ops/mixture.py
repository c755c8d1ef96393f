"""Mixtures of several networks' distributions, in log space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.utils.arguments import check_numbers


def log_mixture(
    logits: Sequence[Tensor], weights: Sequence[float | Tensor], temperature: float = 1.0, dim: int = -1
) -> Tensor:
    """``log sum_k w_k softmax(z_k / T)``, finite at logits of ±1e4.

    A weight that is the number 0 leaves its network out; where one is left with the weight 1, its log-softmax comes
    back to the last bit.

    Args:
        logits: Of each network, all of one shape, in float32 or wider.
        weights: For each network, summing to 1: a number, or a tensor that broadcasts to the logits.
        temperature: ``T`` above 0.
        dim: The classes' dimension.

    Returns:
        Log-probabilities, of the logits' shape.
    """
    terms = [
        F.log_softmax(z / temperature, dim) + (w.log() if isinstance(w, Tensor) else math.log(w))
        for z, w in zip(logits, weights, strict=True)
        if isinstance(w, Tensor) or w > 0
    ]
    return torch.logsumexp(torch.stack(terms), 0) if len(terms) > 1 else terms[0]


def favour_small(shares: Tensor) -> Tensor:
    """``w_k = (1 - share_k) / (K - 1)``: the smaller a network's share of the doubt, the larger its weight.

    Args:
        shares: ``[K, …]``, summing to 1 over the networks.

    Returns:
        Weights ``[K, …]`` that sum to 1 over the networks; 1 for a single one.
    """
    count = len(shares)
    return (1 - shares) / (count - 1) if count > 1 else torch.ones_like(shares)


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights that sum to 1; equal ones where None.

    Args:
        weights: Finite, at least 0, not all 0, one for each network.
        count: Number of networks.

    Raises:
        ValueError: They are not.
    """
    if weights is None:
        return [1 / count] * count
    found = check_numbers("weights", weights, least=0)
    if len(found) != count:
        raise ValueError(f"{len(found)} weights for {count} networks; give each one.")
    if not any(found):
        raise ValueError("weights of networks must not all be 0.")
    total = sum(found)
    return [weight / total for weight in found]
