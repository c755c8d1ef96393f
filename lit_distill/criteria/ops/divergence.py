"""Kullback-Leibler divergences and mixtures of softmax distributions, in log space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.utils.arguments import check_numbers


def kl_divergence(log_p: Tensor, log_q: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return ``sum_c p (log p - log q)`` of log-probabilities ``[…, C]``, over the entries that ``counts`` marks."""
    gap = log_p - log_q
    if counts is not None:
        gap = gap.masked_fill(~counts, 0)
    return (log_p.exp() * gap).sum(-1)


def softmax_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ``KL(softmax(t) || softmax(s))`` of scores ``[…, N]``, in float32 or wider: ``[…]``.

    Entries that are False in ``mask``, broadcast to the scores, get no probability. If none counts, the divergence is 0.
    """
    if mask is not None:
        # The lowest number and not -inf, with which a row without any entry would be NaN.
        lowest = torch.finfo(student.dtype).min
        student, teacher = student.masked_fill(~mask, lowest), teacher.masked_fill(~mask, lowest)
    return kl_divergence(teacher.log_softmax(-1), student.log_softmax(-1), mask)


def log_mixture(
    logits: Sequence[Tensor], weights: Sequence[float | Tensor], temperature: float = 1.0, dim: int = -1
) -> Tensor:
    """Return ``log sum_k w_k softmax(z_k / T)``, finite at logits of ±1e4.

    A weight that is the number 0 leaves its network out. If only one network with weight 1 is left, the result is exactly
    its log-softmax.

    Args:
        logits: One tensor per network, all of one shape, in float32 or wider.
        weights: One per network, summing to 1: a number, or a tensor that broadcasts to the logits.
        temperature: ``T`` above 0.
        dim: The dimension of the classes.

    Returns:
        Log-probabilities in the shape of the logits.
    """
    terms = [
        F.log_softmax(z / temperature, dim) + (w.log() if isinstance(w, Tensor) else math.log(w))
        for z, w in zip(logits, weights, strict=True)
        if isinstance(w, Tensor) or w > 0
    ]
    return torch.logsumexp(torch.stack(terms), 0) if len(terms) > 1 else terms[0]


def favour_small(shares: Tensor) -> Tensor:
    """Return ``w_k = (1 - share_k) / (K - 1)`` of shares ``[K, …]``: the smaller a network's share, the larger its weight.

    Shares and weights sum to 1 over the networks; a single network has the weight 1.
    """
    count = len(shares)
    return (1 - shares) / (count - 1) if count > 1 else torch.ones_like(shares)


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return weights that sum to 1, one for each of ``count`` networks; equal ones if None.

    Raises:
        ValueError: A weight is negative or not finite, all are 0, or there is another number of them.
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
