"""Conversion between tokens and maps, and their resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_PREFIX_TOKENS = 8


def feature_kind(shape: Sequence[int]) -> str:
    """Return the kind of a feature by its shape.

    ``[B, D]`` is a vector, ``[B, N, D]`` tokens, ``[B, C, H, W]`` a map, ``[B, C, D, H, W]`` a volume.
    """
    kinds = {2: "vector", 3: "tokens", 4: "map", 5: "volume"}
    if len(shape) not in kinds:
        raise ValueError(
            f"a feature of shape {list(shape)} is neither a vector [B, D], tokens [B, N, D], a map [B, C, H, W] nor a volume "
            "[B, C, D, H, W]."
        )
    return kinds[len(shape)]


def resize_map(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize a map ``[B, C, H, W]``, or a volume, to ``size``: pooled if larger, interpolated if smaller."""
    if tuple(feature.shape[2:]) == tuple(size):
        return feature
    volume = len(size) == 3
    if all(have >= want for have, want in zip(feature.shape[2:], size, strict=True)):
        if volume:
            return F.adaptive_avg_pool3d(feature, (size[0], size[1], size[2]))
        return F.adaptive_avg_pool2d(feature, (size[0], size[1]))
    return F.interpolate(feature, size=list(size), mode="trilinear" if volume else "bilinear", align_corners=False)


def split_grid(tokens: int) -> tuple[int, int] | None:
    """Split a number of tokens into ``(prefix, side)`` of ``prefix + side * side``; return None if it is no square grid."""
    side = math.isqrt(tokens)
    prefix = tokens - side * side
    return (prefix, side) if side > 1 and prefix <= _MAX_PREFIX_TOKENS else None


def tokens_to_map(feature: Tensor, size: Sequence[int] = ()) -> Tensor:
    """Arrange tokens ``[B, N, D]`` as a map ``[B, D, side, side]``; up to 8 prefix tokens are dropped.

    Tokens of as many positions as ``size``, the size of the map wanted in the end, have its grid, oblong or of a volume.
    """
    batch, count, width = feature.shape
    if count == 1:
        return feature.transpose(1, 2).reshape(batch, width, *[1] * max(len(size), 2))
    prefix = count - math.prod(size) if size else -1
    if not 0 <= prefix <= _MAX_PREFIX_TOKENS:
        grid = split_grid(count) if len(size) < 3 else None
        if grid is None:
            raise ValueError(f"{count} tokens are no square grid; a map cannot be made of them.")
        prefix, side = grid
        size = (side, side)
    return feature[:, prefix:].transpose(1, 2).reshape(batch, width, *size)


def map_to_tokens(feature: Tensor, count: int) -> Tensor:
    """Arrange a map ``[B, C, H, W]``, or a volume, as ``count`` tokens ``[B, count, C]``; its mean fills prefix tokens."""
    tokens = feature.flatten(2).transpose(1, 2)
    prefix = count - tokens.shape[1]
    if not 0 <= prefix <= _MAX_PREFIX_TOKENS:  # not its own grid, oblong or square
        grid = split_grid(count)
        if grid is None or feature.dim() > 4:  # a volume's positions are no square
            return resize_tokens(tokens, count)
        prefix, side = grid
        tokens = resize_map(feature, (side, side)).flatten(2).transpose(1, 2)
    if not prefix:
        return tokens
    return torch.cat([tokens.mean(1, keepdim=True).expand(-1, prefix, -1), tokens], dim=1)


def resize_tokens(feature: Tensor, count: int) -> Tensor:
    """Resize tokens as a grid if both counts show prefix tokens (images), else along the sequence."""
    if feature.shape[1] == count:
        return feature
    have, want = split_grid(feature.shape[1]), split_grid(count)
    if have is not None and want is not None and have[0] and want[0]:
        return map_to_tokens(tokens_to_map(feature), count)
    return F.interpolate(feature.transpose(1, 2), size=count, mode="linear").transpose(1, 2)
