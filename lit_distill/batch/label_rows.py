"""Logits and labels as rows, one per position that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_distill.batch.labels import class_dim, positions, read_labels

if TYPE_CHECKING:
    from lit_distill.batch.labels import Task


@dataclass(frozen=True)
class LabelledRows:
    """Logits and labels as rows, one per position that counts.

    Attributes:
        logits: ``[N, C]``.
        labels: Class indices ``[N]`` or class probabilities ``[N, C]`` for a multiclass task, else ``[N, C]``.
        weight: Each row's sample weight ``[N]``, or None if all count equally.
    """

    logits: Tensor
    labels: Tensor
    weight: Tensor | None = None


def labelled(
    logits: Tensor,
    target: Tensor,
    task: Task,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    check: bool | None = None,
) -> LabelledRows:
    """Return logits and their labels as rows, at the positions that count.

    Args:
        logits: ``[B]``, ``[B, C]``, ``[B, T, C]``, ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        target: Labels in any form that ``read_labels`` takes.
        task: ``multiclass``, ``binary``, ``multilabel`` or ``regression``.
        mask: True at the positions that count; not applied to ``[B]`` and ``[B, C]`` logits, where it belongs to the
            inputs' tokens.
        sample_weight: ``[B]``, at least 0; None if all samples count equally.
        check: Check the values of the labels; if None, on the CPU only.

    Raises:
        ValueError: The labels, the mask or the weights do not fit.
    """
    labels = read_labels(target, logits, task, check)
    mask = mask if mask is not None and logits.dim() > 2 else None
    counting = counted_rows(logits, mask)
    if labels.shape == logits.shape:
        labels = counted_rows(labels, mask)
    else:
        labels = labels.flatten() if mask is None else labels[mask.bool()]
    if sample_weight is None:
        return LabelledRows(counting, labels)
    weight = _row_weight(sample_weight, logits, check if check is not None else logits.device.type == "cpu")
    spots = positions(logits) if mask is None else mask.shape
    weight = weight.reshape(-1, *[1] * (len(spots) - 1)).expand(spots)
    return LabelledRows(counting, labels, weight.flatten() if mask is None else weight[mask.bool()])


def counted_rows(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return logits, or labels of their shape, at the positions that count, as rows ``[N, C]``.

    Raises:
        ValueError: The mask does not fit.
    """
    mask = mask if logits.dim() > 2 else None
    if mask is not None and mask.shape == logits.shape:  # one logit per position, without a dimension of classes
        logits = logits.unsqueeze(1)
    if mask is not None and mask.shape != positions(logits):
        raise ValueError(f"a mask of shape {list(mask.shape)} does not fit logits {list(logits.shape)}.")
    logits = logits.unsqueeze(1) if logits.dim() == 1 else logits
    rows = logits.movedim(class_dim(logits), -1)
    return rows.flatten(0, -2) if mask is None else rows[mask.bool()]


def _row_weight(weight: Tensor, logits: Tensor, look: bool) -> Tensor:
    batch = len(logits)
    if weight.numel() != batch:
        raise ValueError(
            f"sample weights {list(weight.shape)} do not fit a batch of {batch}: give one number for each sample, [{batch}]."
        )
    weight = weight.detach().flatten().to(torch.promote_types(logits.dtype, torch.float32))
    if look and not bool((weight >= 0).all()):
        raise ValueError(f"sample weights must be at least 0; one is {float(weight[~(weight >= 0)][0]):g}.")
    return weight
