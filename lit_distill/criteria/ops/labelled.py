"""Rows of logits with their labels, for criteria that compare logits class by class and also read labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.labels import class_indices
from lit_distill.criteria.ops.rows import check_same_classes, paired_rows
from lit_distill.outputs import Outputs


def need_labels(target: Tensor | None, owner: str, remedy: str = "") -> Tensor:
    """Return the labels.

    Raises:
        ValueError: There are none.
    """
    if target is None:
        raise ValueError(f"{owner} needs labels, and the batch has none{remedy}.")
    return target


def labelled_rows(
    student: Outputs, teacher: Outputs, target: Tensor | None, standardize: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both networks' logits and the labels, at the positions that count.

    Both rows are ``[N, C]`` in float32 or wider, the labels ``[N]``: of class probabilities (after MixUp) the likeliest class.

    Raises:
        ValueError: There are no labels, or shapes do not fit.
    """
    target = need_labels(target, "the criterion")
    rows_s, rows_t = paired_rows(student, teacher, standardize)
    mask, indices = student.logit_mask, class_indices(target, student.logits)
    return rows_s, rows_t, indices.flatten() if mask is None else indices[mask.bool()]


def label_index(target: Tensor) -> Tensor:
    """Return the labels as a column ``[N, 1]`` to gather with; 0 stands for unknown ones (-100)."""
    return target.clamp(min=0).unsqueeze(1)


def mean_of_labelled(losses: Tensor, target: Tensor) -> Tensor:
    """Average losses ``[N]`` over the rows whose label is known (not -100); 0 if there is none."""
    known = target != IGNORED_LABEL
    return losses.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)


def other_classes(logits: Tensor, target: Tensor) -> Tensor:
    """Return the logits ``[N, C - 1]`` of every class but the label's, in order."""
    index = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, index + (index >= label_index(target)))


def target_and_rest(logits: Tensor, label: Tensor) -> Tensor:
    """Return ``log [p_y, 1 - p_y]`` as ``[N, 2]``, from logits ``[N, C]`` and class indices ``[N]``.

    Both are log-sigmoids of one margin, so that the smaller of the two is exact as well.
    """
    own = logits.gather(1, label_index(label)).squeeze(1)
    margin = own - other_classes(logits, label).logsumexp(1)
    return torch.stack([F.logsigmoid(margin), F.logsigmoid(-margin)], dim=1)


def check_three_classes(student: Tensor, teacher: Tensor, method: str) -> None:
    """Refuse logits for a method that compares the classes other than the label's with each other.

    Raises:
        ValueError: The two shapes differ, or there are fewer than 3 classes.
    """
    check_same_classes(student, teacher)
    classes = student.shape[1]
    if classes < 3:
        raise ValueError(
            f"{method} needs at least 3 classes, and there {'are' if classes > 1 else 'is'} {classes}: "
            "it compares the classes other than the label's among each other. Use "
            + ("SoftTarget." if classes > 1 else "SoftTarget(task='binary') for a sigmoid, LogitMSE for numbers.")
        )
