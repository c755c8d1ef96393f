"""CC: Peng et al. 2019, "Correlation Congruence for Knowledge Distillation"."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.criteria.ops.normalisation import unit_length
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number, check_whole


def correlation(feature: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """``exp(-2 gamma) sum_p (2 gamma)^p / p! (x_i'x_j)^p`` of unit vectors, ``p`` up to ``order``: ``[B, B]``.

    It is the Taylor expansion of the Gaussian kernel ``exp(-gamma ||x_i - x_j||²)``.

    Args:
        feature: ``[B, …]``; all but the batch is flattened.
        gamma: Above 0.
        order: At least 1.
    """
    unit = unit_length(feature.flatten(1))
    cosines = unit @ unit.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


class CC(FeatureCriterion):
    """How the samples of a batch correlate: ``||C_s - C_t||² / B²``; the mean over pairs.

    Embeddings need not have one width. It has no parameters, costs two ``B × B`` products, and does not depend on the
    batch's order. A batch of one has one correlation, with itself, and gives 0
    without a gradient. The weight is 100 in KD-Zoo, whose formula this is: the paper's, with its gamma and order.

    Elsewhere: RepDistiller has the mean of ``sum |delta_i| |delta_i+1|``, with ``delta`` the difference of embeddings,
    weight 0.02: it changes with the batch's order, is no correlation, and is not the paper's. No two code bases agree.

    Args:
        student_layer: A layer reference, a glob or a list of them.
        teacher_layer: The teacher's layers, as many.
        gamma: The kernel's, above 0; 0.4 in the paper.
        order: Of the expansion, at least 1; 2 in the paper.

    Raises:
        ValueError: An argument is out of range.
    """

    about = About("CC", 'Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", ICCV', weight=100.0)

    def __init__(
        self, student_layer: str | list[str], teacher_layer: str | list[str], gamma: float = 0.4, order: int = 2
    ) -> None:
        super().__init__(student_layer, teacher_layer)
        self.gamma = check_number("gamma", gamma, above=0)
        self.order = check_whole("order", order, least=1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = [
            F.mse_loss(correlation(s, self.gamma, self.order), correlation(t, self.gamma, self.order))
            for s, t in self.pair_features(student, teacher)
        ]
        return torch.stack(values).mean()
