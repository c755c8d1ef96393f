"""SP: similarity-preserving distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import unit_length
from lit_distill.outputs import Outputs


def similarity(feature: Tensor) -> Tensor:
    """Return ``G = F F^T``, ``[B, B]``, of features ``[B, …]``, with each row divided by its L2 norm."""
    flat = feature.flatten(1)
    return unit_length(flat @ flat.T, dim=1)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the similarity-preserving loss ([Tung and Mori 2019](https://arxiv.org/abs/1907.09682), equation 4).

    $$ \|G^s - G^t\|^2 / B^2, \quad G_{i\cdot} = (F F^\top)_{i\cdot} / \|(F F^\top)_{i\cdot}\|_2 $$

    It is not a mean over samples: they are compared with each other, and a larger batch gives a smaller value.

    Args:
        student: ``[B, …]``, flattened.
        teacher: ``[B, …]``; its other dimensions need not match.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]])
        >>> similarity_preserving(student, teacher)
        tensor(0.2929)
    """
    return F.mse_loss(similarity(student), similarity(teacher))


class SP(FeatureCriterion):
    r"""Samples that look alike to the teacher look alike to the student; the sum over pairs of layers, as in the paper.

    $$ \|G^s - G^t\|^2 / B^2 $$ ([Tung and Mori 2019](https://arxiv.org/abs/1907.09682)), see ``similarity_preserving``.

    The weight of the paper and of RepDistiller is 3,000, on the last stage. One published implementation divides rows by
    their L1 norm. In distributed training each process compares its own samples. A batch of one gives 0 without a gradient;
    so does a student's feature of zeros, whose product has no gradient, in any batch.

    Args:
        student_layer: A layer reference, a glob or a list of them; features of any shape; or ``auto``, the last
            stage's end.
        teacher_layer: The teacher's layers, as many.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Examples:
        >>> student = Outputs(torch.zeros(2, 2), {"layer3": torch.tensor([[1.0, 0.0], [0.0, 1.0]])})
        >>> teacher = Outputs(torch.zeros(2, 2), {"layer3": torch.tensor([[1.0], [1.0]])})
        >>> SP("layer3", "layer3")(student, teacher)
        tensor(0.2929)
    """

    citation = Citation(
        "SP",
        'Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", ICCV',
        weight=3000,
        url="https://arxiv.org/abs/1907.09682",
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
        values = [similarity_preserving(s, t) for s, t in self.pair_features(student, teacher)]
        return torch.stack(values).sum()
