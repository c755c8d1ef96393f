"""Rows of logits beside their labels, for the criteria that compare logits class by class and read labels too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.labels import class_indices
from lit_distill.criteria.base import paired_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs


def labelled_rows(
    student: Outputs, teacher: Outputs, target: Tensor | None, standardize: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Both networks' logits and the labels, at the positions that count.

    Args:
        student: Its outputs; its mask says which positions count.
        teacher: Its outputs.
        target: Labels of any form that ``lit_distill.batch.labels.read_labels`` takes; of class probabilities (after MixUp) the
            likeliest class is taken.
        standardize: Whether to standardize both networks' logits.

    Returns:
        The student's rows ``[N, C]``, the teacher's, in float32 or wider, and labels ``[N]``.

    Raises:
        ValueError: There are no labels, or shapes do not fit.
    """
    if target is None:
        raise ValueError("labels are needed, and the batch has none.")
    rows_s, rows_t = paired_rows(student, teacher)
    mask = student.mask if student.logits.dim() > 2 else None  # else it belongs to the inputs' tokens
    indices = class_indices(target, student.logits)
    labels = indices.flatten() if mask is None else indices[mask.bool()]
    if standardize:
        rows_s, rows_t = standardized(rows_s), standardized(rows_t)
    return rows_s, rows_t, labels


def label_index(target: Tensor) -> Tensor:
    """The labels as a column ``[N, 1]`` to gather with; 0 stands for those that are not known (-100)."""
    return target.clamp(min=0).unsqueeze(1)


def mean_of_labelled(losses: Tensor, target: Tensor) -> Tensor:
    """The mean of losses ``[N]`` over the rows whose label is known (is not -100); 0 where none is."""
    known = target != IGNORED_LABEL
    return losses.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)


def other_classes(logits: Tensor, target: Tensor) -> Tensor:
    """The logits ``[N, C - 1]`` of every class but the label's, in order."""
    index = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, index + (index >= label_index(target)))


def target_and_rest(logits: Tensor, label: Tensor) -> Tensor:
    """``log [p_y, 1 - p_y]`` as ``[N, 2]``, from logits ``[N, C]`` and class indices ``[N]``.

    Both are log-sigmoids of one margin, so that the smaller of the two is exact as well.
    """
    own = logits.gather(1, label_index(label)).squeeze(1)
    margin = own - other_classes(logits, label).logsumexp(1)
    return torch.stack([F.logsigmoid(margin), F.logsigmoid(-margin)], dim=1)


def check_three_classes(logits: Tensor, method: str) -> None:
    """Refuse logits ``[N, C]`` of fewer than 3 classes, where a method that compares the other classes has nothing to.

    Raises:
        ValueError: There are fewer.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"{method} needs at least 3 classes, and there {'are' if logits.shape[1] > 1 else 'is'} {logits.shape[1]}: "
            "it compares the classes beside the label's among each other. Use "
            + (
                "SoftTarget."
                if logits.shape[1] > 1
                else "SoftTarget(task='binary') for a sigmoid, LogitMSE for numbers."
            )
        )
