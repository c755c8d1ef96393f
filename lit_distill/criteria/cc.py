"""CC: correlation congruence."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import unit_length
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number, check_whole


def correlation(feature: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Return the Gaussian kernel of samples ``[B, …]`` as unit vectors, expanded to ``order``: ``[B, B]``.

    It is ``exp(-2 gamma) sum_p (2 gamma)^p / p! (x_i'x_j)^p``, the Taylor expansion of ``exp(-gamma ||x_i - x_j||²)``.
    """
    unit = unit_length(feature.flatten(1))
    cosines = unit @ unit.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


def correlation_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""Return the correlation congruence loss ([Peng et al. 2019](https://arxiv.org/abs/1904.01802)).

    $$ \|C^s - C^t\|^2 / B^2, \quad C_{ij} \approx \exp(-\gamma \|x_i - x_j\|^2) \text{ of unit vectors} $$

    Args:
        student: Embeddings ``[B, …]``, flattened.
        teacher: ``[B, …]``; its other dimensions need not match.
        gamma: The scale of the Gaussian kernel, above 0.
        order: The order of its expansion, at least 1.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> correlation_congruence(student, teacher)
        tensor(0.1266)
    """
    return F.mse_loss(correlation(student, gamma, order), correlation(teacher, gamma, order))


class CC(FeatureCriterion):
    r"""Compares how the samples of a batch correlate; the mean over pairs of layers.

    $$ \|C^s - C^t\|^2 / B^2 $$ ([Peng et al. 2019](https://arxiv.org/abs/1904.01802)), see ``correlation_congruence``.

    Embeddings need not have one width. It has no parameters, costs two ``B × B`` products, and does not depend on the order
    of the batch. A batch of one has one correlation, with itself, and gives 0 without a gradient. The formula is the
    paper's, and KD-Zoo's; RepDistiller has the mean of ``sum |delta_i| |delta_i+1|``, with ``delta`` the difference of
    embeddings, weight 0.02, which changes with the order of the batch and is not the paper's.

    Args:
        student_layer: A layer reference, a glob or a list of them; or ``auto``, the last stage's end.
        teacher_layer: The teacher's layers, as many.
        gamma: The scale of the Gaussian kernel, above 0; 0.4 in the paper.
        order: The order of the kernel's expansion, at least 1; 2 in the paper.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> student = Outputs(torch.zeros(2, 2), {"pool": torch.tensor([[1.0, 0.0], [0.0, 1.0]])})
        >>> teacher = Outputs(torch.zeros(2, 2), {"pool": torch.tensor([[1.0, 0.0], [1.0, 0.0]])})
        >>> CC("pool", "pool")(student, teacher)
        tensor(0.1266)
    """

    citation = Citation(
        "CC",
        'Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", ICCV',
        weight=100.0,
        url="https://arxiv.org/abs/1904.01802",
    )
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        gamma: float = 0.4,
        order: int = 2,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)
        self.gamma = check_number("gamma", gamma, above=0)
        self.order = check_whole("order", order, least=1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        return torch.stack([correlation_congruence(s, t, self.gamma, self.order) for s, t in pairs]).mean()
