"""Brings features to a common scale."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Normalise = Literal["none", "l2", "layer", "channel"]
NORMALISATIONS: tuple[Normalise, ...] = get_args(Normalise)


def normalise(feature: Tensor, kind: Normalise) -> Tensor:
    """Bring a feature to a common scale.

    ``l2``: unit length over channels at each position. ``layer``: mean 0 and variance 1 over channels at
    each position, a LayerNorm without weights. ``channel``: mean 0 and variance 1 of each channel over batch
    and positions, a BatchNorm without weights in training (Cao et al. 2022, PKD).

    Args:
        feature: ``[B, D]``, ``[B, N, D]``, ``[B, C, H, W]`` or a volume.
        kind: Which normalisation.
    """
    dim = channel_dim(feature)
    if kind == "none":
        return feature
    if kind == "l2":
        return unit_length(feature, dim)
    dims = [dim] if kind == "layer" else [d for d in range(feature.dim()) if d != dim % feature.dim()]
    variance, mean = torch.var_mean(feature, dim=dims, correction=0, keepdim=True)
    return (feature - mean) / (variance + 1e-6).sqrt()


def channel_dim(feature: Tensor) -> int:
    """The channels' dimension: 1 in a map or a volume, the last in vectors and tokens."""
    return 1 if feature.dim() > 3 else -1


def unit_length(vectors: Tensor, dim: int = -1) -> Tensor:
    """``x / ||x||``, exact at any scale; a zero vector stays zero, and its gradient is that of the identity.

    Args:
        vectors: Any shape.
        dim: What the norm runs over.
    """
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    # A constant here: the direction does not change with the scale, and neither does its gradient.
    scaled = vectors / torch.where(largest > 0, largest, 1)
    norm = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1)
