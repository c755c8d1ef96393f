"""Masks and labels as every criterion reads them: unknown labels marked, positions shifted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL


def as_mask(mask: Any) -> Tensor | None:
    """Convert a mask to booleans; refuse numbers other than 0 and 1."""
    if not isinstance(mask, Tensor):
        return None
    if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "a mask is true, or 1, at the positions that count, and this one holds other numbers (one that is added to "
            "scores?); compute it in a function: BatchFormat(mask_key=lambda batch: batch['attention_mask'] == 0)."
        )
    return mask.bool()


def as_labels(target: Sequence[Any]) -> Any:
    """Return labels that a collate function left in a list: the only tensor in it, or numbers as a tensor."""
    if len(target) == 1 and isinstance(target[0], Tensor):
        return target[0]
    if target and all(isinstance(label, (int, float)) for label in target):
        return torch.tensor(target)
    return target


def ignore(labels: Tensor, missing: float, numbers: bool = False) -> Tensor:
    """Mark the labels of one value (NaN marks NaN) as unknown; integers are widened first, so that -100 fits.

    Floating-point labels that are no ``numbers`` may be probabilities, for which 0 to 1 mark nothing.
    """
    shares = labels.is_floating_point() and 0 <= missing <= 1 and not numbers
    if labels.dtype == torch.bool or shares:
        return labels
    if labels.is_floating_point():
        return labels.masked_fill(labels.isnan() if math.isnan(missing) else labels == missing, IGNORED_LABEL)
    return labels.long().masked_fill(labels == missing, IGNORED_LABEL)


def shifted(labels: Tensor) -> Tensor:
    """Give each position the next one's label, ``[B, T]``; the last one becomes unknown."""
    if labels.dim() < 2:
        raise ValueError(
            f"shift_labels gives each position the next one's label, and labels {list(labels.shape)} have no positions; leave "
            "it out of BatchFormat."
        )
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED_LABEL)], dim=1)
