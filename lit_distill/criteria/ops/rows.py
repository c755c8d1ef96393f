"""Logits of two networks as rows of classes, one per position that counts."""

from __future__ import annotations

from torch import Tensor

from lit_distill.batch.labels import need_classes
from lit_distill.criteria.base import at_least_float32
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs


def valid_rows(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Lay logits out as rows of classes, ``[N, C]``, keeping the positions that count.

    Args:
        logits: ``[B, C]``, ``[B, T, C]``, ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        mask: True at the positions that count: ``[B]``, ``[B, T]``, ``[B, H, W]`` or ``[B, D, H, W]``.

    Raises:
        ValueError: Another number of dimensions, or a mask of another shape.
    """
    if logits.dim() not in (2, 3, 4, 5):
        raise ValueError(
            f"logits must be [B, C], [B, T, C], [B, C, H, W] or [B, C, D, H, W], not {list(logits.shape)}."
        )
    classes_last = logits.movedim(1, -1) if logits.dim() > 3 else logits
    if mask is None:
        return classes_last.flatten(0, -2)
    if mask.shape != classes_last.shape[:-1]:
        raise ValueError(f"a mask of shape {list(mask.shape)} does not fit logits {list(logits.shape)}.")
    return classes_last[mask.bool()]


def wide_rows(student: Tensor, teacher: Tensor, standardize: bool = False) -> tuple[Tensor, Tensor]:
    """Lay both networks' logits out as rows ``[N, C]`` in float32 or wider."""
    rows_s, rows_t = at_least_float32(valid_rows(student)), at_least_float32(valid_rows(teacher))
    return (standardized(rows_s), standardized(rows_t)) if standardize else (rows_s, rows_t)


def paired_rows(student: Outputs, teacher: Outputs, standardize: bool = False) -> tuple[Tensor, Tensor]:
    """Return both networks' logits as rows ``[N, C]`` in float32 or wider, at the positions that count.

    Raises:
        ValueError: The shapes differ; the message says so if the classes do.
    """
    check_same_classes(student.logits, teacher.logits)
    if student.logits.dim() == 1:
        need_classes(student.logits)
    mask = student.logit_mask
    return wide_rows(valid_rows(student.logits, mask), valid_rows(teacher.logits, mask), standardize)


def check_same_classes(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that cannot be compared class by class.

    Raises:
        ValueError: The two shapes differ.
    """
    if student.shape == teacher.shape:
        return
    class_dim = 1 if student.dim() > 3 else -1
    if student.dim() == teacher.dim() and student.shape[class_dim] != teacher.shape[class_dim]:
        raise ValueError(
            f"the student has {student.shape[class_dim]} classes and the teacher {teacher.shape[class_dim]}; "
            "give both the same number of classes."
        )
    raise ValueError(f"student logits {list(student.shape)} do not match teacher logits {list(teacher.shape)}.")
