"""Similarity-preserving distillation: Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation"."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.criteria.ops.normalisation import unit_length
from lit_distill.outputs import Outputs


def similarity(feature: Tensor) -> Tensor:
    """``G = F F^T`` with each row divided by its L2 norm: how alike a batch's samples are.

    Args:
        feature: ``[B, …]``; all but the batch is flattened.

    Returns:
        ``[B, B]``.
    """
    flat = feature.flatten(1)
    return unit_length(flat @ flat.T, dim=1)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """``||G_s - G_t||² / B²`` of one pair of layers (equation 4).

    The value of a batch is no mean of its samples' values: samples are compared with each other, and a larger batch
    gives a smaller value.

    Args:
        student: ``[B, …]``.
        teacher: ``[B, …]``; its other dimensions need not match.
    """
    return F.mse_loss(similarity(student), similarity(teacher))


class SP(FeatureCriterion):
    """Samples that look alike to the teacher look alike to the student; the sum over pairs, as in the paper.

    The weight of the paper and of RepDistiller is 3,000, on the last stage. It has no parameters; the work is two
    products ``[B, D] x [D, B]`` of the flattened features. Rows are divided by their L2 norm, as in the paper; one
    published implementation divides by their L1 norm. In distributed training each process compares its own samples,
    so that the value depends on the batch of one process. A batch of one sample is alike to itself alone:
    the value 0, without a gradient. So is a student's feature of zeros, whose product has no gradient, in any batch.

    Args:
        student_layer: A layer reference, a glob or a list of them; features of any shape.
        teacher_layer: The teacher's layers, as many.
    """

    about = About("SP", 'Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", ICCV', weight=3000)

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str]) -> None:
        super().__init__(student_layer, teacher_layer)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = [similarity_preserving(s, t) for s, t in self.pair_features(student, teacher)]
        return torch.stack(values).sum()
