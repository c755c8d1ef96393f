"""Features of two networks at the same positions."""

from __future__ import annotations

from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.utils.grids import feature_kind, resize_map


def at_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both features with equally many positions: of two maps the larger is average-pooled.

    Args:
        student: ``[B, C, H, W]``, ``[B, N, D]`` or ``[B, D]``.
        teacher: The same kind of feature; channels need not match.

    Raises:
        ValueError: The two are of different kinds, or tokens of different number.
    """
    if student.dim() != teacher.dim():
        raise ValueError(
            f"features of {list(student.shape)} and {list(teacher.shape)} cannot be compared; give two maps "
            "[B, C, H, W], two of tokens [B, N, D], or two vectors [B, D]."
        )
    if student.dim() == 3 and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"{student.shape[1]} student tokens cannot be compared with {teacher.shape[1]} teacher tokens."
        )
    if student.dim() > 3:
        size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        return resize_map(student, size), resize_map(teacher, size)
    return student, teacher


def need_maps(method: str, *features: Tensor, volumes: bool = False) -> None:
    """Refuse what is no map.

    Args:
        method: The name of what needs them.
        features: What it was given.
        volumes: Volumes do as well.

    Raises:
        ValueError: A feature is not ``[B, C, H, W]``.
    """
    for feature in features:
        if feature.dim() != 4 and not (volumes and feature.dim() == 5):
            raise ValueError(f"{method} compares maps [B, C, H, W], and a feature is {list(feature.shape)}.")


def pooled(feature: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over positions: ``[B, D]`` of a vector ``[B, D]``, tokens ``[B, N, D]``, a map ``[B, D, H, W]`` or a volume.

    Args:
        feature: The feature.
        mask: True at the positions that count; all count where None, or where it is of other positions.
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
    """The positions that count as rows ``[M, D]``; the feature as it is where all count.

    Args:
        feature: As in ``pooled``.
        mask: As in ``pooled``.
    """
    own = position_mask(mask, feature)
    if own is None:
        return feature
    return (feature if feature.dim() == 3 else feature.movedim(1, -1))[own]
