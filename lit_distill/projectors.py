"""Brings a student's feature to the shape of a teacher's: conv, linear, token; sizes inferred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["none", "batch", "layer"]
_MAX_PREFIX_TOKENS = 8


def feature_kind(shape: Sequence[int]) -> str:
    """Name a feature by its number of dimensions.

    Args:
        shape: With the batch: ``[B, D]`` vector, ``[B, N, D]`` tokens, ``[B, C, H, W]`` map.

    Raises:
        ValueError: Another number of dimensions.
    """
    kinds = {2: "vector", 3: "tokens", 4: "map"}
    if len(shape) not in kinds:
        raise ValueError(
            f"a feature of shape {list(shape)} is neither a vector [B, D], tokens [B, N, D] nor a map [B, C, H, W]."
        )
    return kinds[len(shape)]


class Projector(nn.Module):
    """A student feature, reshaped, resized and mapped linearly to a teacher feature's shape.

    The spatial part comes first and has no parameters: a larger map is average-pooled, a smaller one
    interpolated; tokens become a map by dropping prefix tokens (class, registers), and a map becomes
    tokens with its mean standing for the prefix tokens; maps and tokens become a vector by averaging.
    Then one linear layer (a 1x1 convolution on maps) maps the channels, unless they agree already.

    Args:
        student: Shape of the student's feature, batch included.
        teacher: Shape of the teacher's feature, batch included.
        norm: Normalisation after the linear map: ``none``, ``batch`` or ``layer``.

    Raises:
        ValueError: The pair cannot be matched (a vector has no positions to fill a map or tokens with).
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], norm: Norm = "none") -> None:
        super().__init__()
        self.source, self.target = feature_kind(student), feature_kind(teacher)
        if self.source == "vector" and self.target != "vector":
            raise ValueError(
                f"a student vector {list(student)} cannot fill a teacher {self.target} {list(teacher)}; choose an "
                "earlier layer of the student, or a pooled layer of the teacher."
            )
        self.size = tuple(teacher[2:]) if self.target == "map" else (teacher[1],)
        self.channels = _channels(teacher)
        width = _channels(student)
        self.linear = self._make_linear(width, norm) if width != self.channels or norm != "none" else nn.Identity()
        self.norm = self._make_norm(norm)

    def _make_linear(self, width: int, norm: Norm) -> nn.Module:
        bias = norm == "none"
        if self.target == "map":
            return nn.Conv2d(width, self.channels, kernel_size=1, bias=bias)
        return nn.Linear(width, self.channels, bias=bias)

    def _make_norm(self, norm: Norm) -> nn.Module:
        if norm == "none":
            return nn.Identity()
        if norm == "layer":
            return nn.GroupNorm(1, self.channels) if self.target == "map" else nn.LayerNorm(self.channels)
        if norm == "batch":
            return nn.BatchNorm2d(self.channels) if self.target == "map" else nn.BatchNorm1d(self.channels)
        raise ValueError(f"norm must be 'none', 'batch' or 'layer', not {norm!r}.")

    def forward(self, feature: Tensor) -> Tensor:
        """Project ``feature`` (the student's kind) to the teacher's shape, ``[B, …]``."""
        resized = self._resize(feature)
        weight = getattr(self.linear, "weight", None)
        if weight is not None:
            resized = resized.to(weight.dtype)
        mapped: Tensor = self.linear(resized)
        if self.target == "tokens" and isinstance(self.norm, nn.BatchNorm1d):
            mapped = mapped.transpose(1, 2)
            normed: Tensor = self.norm(mapped)
            return normed.transpose(1, 2)
        normed = self.norm(mapped)
        return normed

    def _resize(self, feature: Tensor) -> Tensor:
        if self.target == "vector":
            return feature.flatten(2).mean(2) if self.source == "map" else _mean_tokens(feature)
        if self.target == "map":
            grid = feature if self.source == "map" else tokens_to_map(feature)
            return resize_map(grid, self.size)
        if self.source == "map":
            return map_to_tokens(feature, self.size[0])
        return _resize_tokens(feature, self.size[0])


def _channels(shape: Sequence[int]) -> int:
    return shape[1] if len(shape) == 4 else shape[-1]


def _mean_tokens(feature: Tensor) -> Tensor:
    return feature.mean(1) if feature.dim() == 3 else feature


def resize_map(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring a map ``[B, C, H, W]`` to ``size``: pooled where larger, interpolated where smaller."""
    if tuple(feature.shape[2:]) == tuple(size):
        return feature
    if all(have >= want for have, want in zip(feature.shape[2:], size, strict=True)):
        return F.adaptive_avg_pool2d(feature, (size[0], size[1]))
    return F.interpolate(feature, size=list(size), mode="bilinear", align_corners=False)


def split_grid(tokens: int) -> tuple[int, int] | None:
    """Read a number of tokens as ``prefix + side * side``; None where it is no square grid."""
    side = math.isqrt(tokens)
    prefix = tokens - side * side
    return (prefix, side) if side > 1 and prefix <= _MAX_PREFIX_TOKENS else None


def tokens_to_map(feature: Tensor) -> Tensor:
    """Lay tokens ``[B, N, D]`` out as a map ``[B, D, side, side]``; prefix tokens are dropped.

    Raises:
        ValueError: ``N`` is not a square plus at most 8 prefix tokens.
    """
    grid = split_grid(feature.shape[1])
    if grid is None:
        raise ValueError(f"{feature.shape[1]} tokens are no square grid; a map cannot be made of them.")
    prefix, side = grid
    grid_tokens = feature[:, prefix:].transpose(1, 2)
    return grid_tokens.reshape(*grid_tokens.shape[:2], side, side)


def map_to_tokens(feature: Tensor, count: int) -> Tensor:
    """Read a map ``[B, C, H, W]`` as ``count`` tokens ``[B, count, C]``; its mean fills prefix tokens."""
    grid = split_grid(count)
    if grid is None:
        return _resize_tokens(feature.flatten(2).transpose(1, 2), count)
    prefix, side = grid
    tokens = resize_map(feature, (side, side)).flatten(2).transpose(1, 2)
    return torch.cat([tokens.mean(1, keepdim=True).expand(-1, prefix, -1), tokens], dim=1)


def _resize_tokens(feature: Tensor, count: int) -> Tensor:
    """Resize tokens as a grid where both counts show prefix tokens (images), else along the sequence."""
    if feature.shape[1] == count:
        return feature
    have, want = split_grid(feature.shape[1]), split_grid(count)
    if have is not None and want is not None and have[0] and want[0]:
        return map_to_tokens(tokens_to_map(feature), count)
    return F.interpolate(feature.transpose(1, 2), size=count, mode="linear").transpose(1, 2)
