"""PHI-S (Ranzinger et al. 2024, section 2, https://arxiv.org/abs/2410.01680).

A distribution with covariance ``U diag(l) U^T`` is centred, scaled by one number and rotated, so that every dimension has
variance 1: ``y = H U^T (x - mu) / phi`` with ``phi = sqrt(mean l)`` and a Hadamard matrix ``H``. The entries of ``H``
are all ``±1 / sqrt(D)``, which spreads each eigenvalue evenly over the dimensions. Unlike whitening, it keeps the shape: an
error has the same size in every direction before and after.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def phi_s(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotation ``H U^T`` ``[D, D]`` and the scale ``phi`` for a covariance ``[D, D]``; the scale is 1 if that is 0.

    Raises:
        ValueError: No Hadamard matrix of order D is known.
    """
    values, vectors = torch.linalg.eigh(covariance)
    rotation = hadamard(len(covariance)).to(covariance) @ vectors.T
    scale = values.clamp(min=0).mean().sqrt()
    return rotation, torch.where(scale > 0, scale, 1)


def hadamard(order: int) -> Tensor:
    """Return an orthogonal matrix ``[order, order]`` in float64 whose entries are all ``±1 / sqrt(order)``.

    It is built by the constructions of Paley (a prime p = 3 mod 4 gives order p + 1, a prime p = 1 mod 4 gives 2 p + 2) and
    Sylvester (twice a known order), which cover the usual widths of networks: 384, 768, 1,024, 1,152, 1,280.

    Raises:
        ValueError: None of the constructions gives this order, which must be 1, 2 or a multiple of 4.
    """
    signs = _signs(order)
    if signs is None:
        raise ValueError(
            f"no Hadamard matrix of order {order} is known here, and phi_s needs one of the teacher's width (a power of 2, "
            "or most multiples of 4); use standardise: dimension."
        )
    return signs / math.sqrt(order)


def _signs(order: int) -> Tensor | None:
    """Return a Hadamard matrix of ±1, or None."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4 and order != 2:
        return None
    if order % 4 == 0 and _is_prime(order - 1):
        return _paley_skew(order - 1)
    half = _signs(order // 2)
    if half is not None:
        return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)
    prime = order // 2 - 1
    return _paley_symmetric(prime) if prime % 4 == 1 and _is_prime(prime) else None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _residues(prime: int) -> Tensor:
    """Return ``Q[i, j]``: 1 if ``i - j`` is a square modulo the prime, -1 if not, 0 on the diagonal."""
    character = -torch.ones(prime, dtype=torch.float64)
    numbers = torch.arange(prime)
    character[numbers * numbers % prime] = 1
    character[0] = 0
    return character[(numbers[:, None] - numbers[None, :]) % prime]


def _paley_skew(prime: int) -> Tensor:
    """Return a matrix of order p + 1 from a prime ``p = 3 mod 4``."""
    core = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    core[1:, 1:] = _residues(prime) + torch.eye(prime, dtype=torch.float64)
    core[1:, 0] = -1
    return core


def _paley_symmetric(prime: int) -> Tensor:
    """Return a matrix of order 2 (p + 1) from a prime ``p = 1 mod 4``."""
    core = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    core[1:, 1:] = _residues(prime)
    core[0, 0] = 0
    identity = torch.eye(prime + 1, dtype=torch.float64)
    plus, minus = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), torch.tensor([[1.0, -1.0], [-1.0, -1.0]]).double()
    return torch.kron(core, plus) + torch.kron(identity, minus)
