"""Features of two networks, brought to common positions and scales."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.utils.grids import feature_kind, resize_map, split_grid, tokens_to_map

Normalise = Literal["none", "l2", "layer", "channel"]
NORMALISATIONS: tuple[Normalise, ...] = get_args(Normalise)


def normalise(feature: Tensor, kind: Normalise) -> Tensor:
    """Bring a feature to a common scale.

    ``l2``: unit length over channels at each position. ``layer``: mean 0 and variance 1 over channels at each position, a
    LayerNorm without weights. ``channel``: mean 0 and variance 1 of each channel over batch and positions, a BatchNorm
    without weights in training (Cao et al. 2022, PKD).
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
    """Return the dimension of the channels: 1 for maps and volumes, the last for vectors and tokens."""
    return 1 if feature.dim() > 3 else -1


def unit_length(vectors: Tensor, dim: int = -1) -> Tensor:
    """Return ``x / ||x||``, exact at any scale; a zero vector stays zero, and its gradient is that of the identity."""
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    # A constant here: the direction does not change with the scale, and neither does its gradient.
    scaled = vectors / torch.where(largest > 0, largest, 1)
    norm = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1)


def at_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both features with the same number of positions: the larger of two maps is average-pooled.

    Tokens that meet a map are arranged as one, without their prefix tokens; so are tokens that differ in number, if both
    are square grids and one has prefix tokens, as images have.

    Raises:
        ValueError: The two are of different kinds, are other tokens that differ in number, or are tokens of no grid and a map.
    """
    if {student.dim(), teacher.dim()} == {3, 4}:
        size = tuple((student if student.dim() == 4 else teacher).shape[2:])
        student, teacher = (tokens_to_map(one, size) if one.dim() == 3 else one for one in (student, teacher))
    if student.dim() == teacher.dim() == 3 and student.shape[1] != teacher.shape[1]:
        grids = split_grid(student.shape[1]), split_grid(teacher.shape[1])
        if grids[0] and grids[1] and (grids[0][0] or grids[1][0]):
            student, teacher = tokens_to_map(student), tokens_to_map(teacher)
    if student.dim() != teacher.dim():
        raise ValueError(
            f"features of {list(student.shape)} and {list(teacher.shape)} cannot be compared; give two maps "
            "[B, C, H, W], two of tokens [B, N, D], or two vectors [B, D]."
        )
    if student.dim() == 3 and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"{student.shape[1]} student tokens cannot be compared with {teacher.shape[1]} teacher tokens; name layers with as "
            "many, or take Hint, which resizes them."
        )
    if student.dim() > 3:
        size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        return resize_map(student, size), resize_map(teacher, size)
    return student, teacher


def same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse two features of different shapes."""
    if student.shape != teacher.shape:
        raise ValueError(f"student feature {list(student.shape)} does not match teacher feature {list(teacher.shape)}.")


def need_maps(method: str, *features: Tensor, volumes: bool = False) -> None:
    """Refuse features that are not maps ``[B, C, H, W]``, or volumes where a method takes those too."""
    for feature in features:
        if feature.dim() != 4 and not (volumes and feature.dim() == 5):
            raise ValueError(f"{method} compares maps [B, C, H, W], and a feature is {list(feature.shape)}.")


def as_maps(method: str, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return tokens ``[B, N, C]`` of a pair as maps ``[B, C, H, W]``, without their prefix tokens; others as they are.

    Raises:
        ValueError: Tokens are a sequence (the batch has a mask of them), or no grid.
    """
    if 3 not in (student.dim(), teacher.dim()):
        return student, teacher
    if mask is not None and mask.dim() == 2:
        raise ValueError(
            f"{method} compares maps [B, C, H, W], and the tokens of {list(student.shape)} and {list(teacher.shape)} are a "
            "sequence. Take TokenRelation or Hint, which compare tokens."
        )
    size = next((tuple(one.shape[2:]) for one in (student, teacher) if one.dim() > 3), ())
    try:
        map_s, map_t = (tokens_to_map(one, size) if one.dim() == 3 else one for one in (student, teacher))
    except ValueError as error:
        raise ValueError(f"{method} compares maps [B, C, H, W]: {error} Take Hint, which compares tokens.") from error
    return map_s, map_t


def positions_last(feature: Tensor) -> Tensor:
    """Return a feature ``[B, C, P]``, with all positions in one dimension."""
    return feature.mT if feature.dim() == 3 else feature.flatten(2)


def need_positions(method: str, *features: Tensor) -> None:
    """Refuse vectors, which have no positions."""
    for feature in features:
        if feature.dim() < 3:
            raise ValueError(
                f"{method} compares positions, of maps [B, C, H, W] or tokens [B, N, C], and a feature is "
                f"{list(feature.shape)}."
            )


def pooled(feature: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average over the positions that count, to ``[B, D]``: of tokens ``[B, N, D]``, a map ``[B, D, H, W]``, …; a vector stays.

    All count if there is no mask, or if it is of other positions.
    """
    kind = feature_kind(feature.shape)
    if kind == "vector":
        return feature
    own = position_mask(mask, feature)
    if own is None:
        return feature.mean(1) if kind == "tokens" else feature.flatten(2).mean(2)
    rows = feature if kind == "tokens" else feature.flatten(2).mT
    keep = own.flatten(1).unsqueeze(-1)
    return rows.masked_fill(~keep, 0).sum(1) / keep.sum(1).clamp(min=1)


def counting_rows(feature: Tensor, mask: Tensor | None) -> Tensor:
    """Return the positions that count as rows ``[M, D]``; the feature as it is if there is no mask of its positions."""
    own = position_mask(mask, feature)
    if own is None:
        return feature
    return (feature if feature.dim() == 3 else feature.movedim(1, -1))[own]
