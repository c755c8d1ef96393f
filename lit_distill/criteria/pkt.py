"""PKT: probabilistic knowledge transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.outputs import Outputs

_EPS = 1e-7  # the authors'


def neighbour_probabilities(feature: Tensor) -> Tensor:
    """Return ``p_j|i = K(x_i, x_j) / sum_k K(x_i, x_k)`` with ``K = (cos + 1) / 2``, of samples ``[B, …]``: ``[B, B]``.

    The sum includes ``i`` itself, as in the authors' code.
    """
    flat = feature.flatten(1)
    unit = flat / (torch.linalg.vector_norm(flat, dim=1, keepdim=True) + _EPS)
    kernel = (unit @ unit.T + 1) / 2
    probabilities: Tensor = kernel / kernel.sum(1, keepdim=True)
    return probabilities


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the probabilistic knowledge transfer loss ([Passalis and Tefas 2018](https://arxiv.org/abs/1803.10837)).

    $$ \frac{1}{B^2} \sum_{ij} p^t_{j|i} \log \frac{p^t_{j|i} + \epsilon}{p^s_{j|i} + \epsilon}, \quad
    p_{j|i} = \frac{1 + \cos(x_i, x_j)}{\sum_k 1 + \cos(x_i, x_k)}, \quad \epsilon = 10^{-7} $$

    The mean is over all ``B²`` entries, as in the authors' code; the paper sums them (section 3).

    Args:
        student: Embeddings ``[B, …]``, flattened.
        teacher: ``[B, …]``; its other dimensions need not match.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> pkt(student, teacher)
        tensor(0.0294)
    """
    p_s, p_t = neighbour_probabilities(student), neighbour_probabilities(teacher)
    return (p_t * ((p_t + _EPS).log() - (p_s + _EPS).log())).mean()


class PKT(FeatureCriterion):
    r"""The probability that one sample of the batch is another's neighbour; the mean over pairs of layers.

    $$ \frac{1}{B^2} \sum_{ij} p^t_{j|i} \log (p^t_{j|i} / p^s_{j|i}) $$
    ([Passalis and Tefas 2018](https://arxiv.org/abs/1803.10837)), see ``pkt``.

    Embeddings are used as they are and need not have one width; the pooled embedding before the classifier is the usual
    layer. RepDistiller's weight is 30,000: the value is small, and smaller in larger batches. A batch of one gives 0
    without a gradient.

    Args:
        student_layer: A layer reference, a glob or a list of them; or ``auto``, the last stage's end.
        teacher_layer: The teacher's layers, as many.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Examples:
        >>> student = Outputs(torch.zeros(2, 2), {"pool": torch.tensor([[1.0, 0.0], [0.0, 1.0]])})
        >>> teacher = Outputs(torch.zeros(2, 2), {"pool": torch.tensor([[1.0, 0.0], [1.0, 0.0]])})
        >>> PKT("pool", "pool")(student, teacher)
        tensor(0.0294)
    """

    citation = Citation(
        "PKT",
        'Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV',
        weight=30000.0,
        url="https://arxiv.org/abs/1803.10837",
    )
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return torch.stack([pkt(s, t) for s, t in self.pair_features(student, teacher)]).mean()
