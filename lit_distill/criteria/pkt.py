"""PKT: Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", section 3."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.outputs import Outputs

_EPS = 1e-7  # the authors'


def neighbour_probabilities(feature: Tensor) -> Tensor:
    """``p_j|i = K(x_i, x_j) / sum_k K(x_i, x_k)`` with ``K = (cos + 1) / 2``: how near ``j`` is to ``i``.

    The sum includes ``i`` itself, as in the authors' code.

    Args:
        feature: ``[B, …]``; all but the batch is flattened.

    Returns:
        ``[B, B]``, rows that sum to 1.
    """
    flat = feature.flatten(1)
    unit = flat / (torch.linalg.vector_norm(flat, dim=1, keepdim=True) + _EPS)
    kernel = (unit @ unit.T + 1) / 2
    probabilities: Tensor = kernel / kernel.sum(1, keepdim=True)
    return probabilities


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_ij p_j|i^t log((p_j|i^t + eps) / (p_j|i^s + eps))`` with eps = 1e-7.

    The mean is over all ``B²`` entries, as in the authors' code; the paper sums them.

    Args:
        student: ``[B, …]``.
        teacher: ``[B, …]``; its other dimensions need not match.
    """
    p_s, p_t = neighbour_probabilities(student), neighbour_probabilities(teacher)
    return (p_t * ((p_t + _EPS).log() - (p_s + _EPS).log())).mean()


class PKT(FeatureCriterion):
    """The probability that one sample of the batch is another's neighbour; the mean over pairs.

    Embeddings are read as they are and need not have one width; the pooled embedding before the classifier is the usual
    layer. It has no parameters and costs two ``B × B`` products. RepDistiller's weight is 30,000: the mean over ``B²``
    entries makes the value small, and smaller in larger batches. A batch of one has no neighbours and gives 0
    without a gradient.

    Args:
        student_layer: A layer reference, a glob or a list of them.
        teacher_layer: The teacher's layers, as many.
    """

    about = About(
        "PKT",
        'Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV',
        weight=30000.0,
    )

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str]) -> None:
        super().__init__(student_layer, teacher_layer)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return torch.stack([pkt(s, t) for s, t in self.pair_features(student, teacher)]).mean()
