"""AB: activation boundaries."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number


def activation_boundary(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    r"""Return the activation boundary loss ([Heo et al. 2019](https://arxiv.org/abs/1811.03233)).

    $$ \tfrac1B \sum_i [t_i > 0]\,\max(0, m - s_i)^2 + [t_i \le 0]\,\max(0, m + s_i)^2 $$

    It is the paper's alternative, differentiable loss.

    Args:
        student: Features before the ReLU, ``[B, …]``.
        teacher: Features of the same shape; only their sign is read.
        margin: ``m``, above 0.

    Examples:
        >>> activation_boundary(torch.tensor([[0.5, -2.0, 0.5]]), torch.tensor([[1.0, -1.0, -1.0]]))
        tensor(2.5000)
    """
    side = torch.where(teacher > 0, 1.0, -1.0).to(student.dtype)
    return (margin - side * student).clamp(min=0).square().sum() / len(student)


class AB(FeatureCriterion):
    r"""Compares which neurons are active, with a margin around the boundary; the weighted sum over pairs of layers.

    $$ \sum_{l=1}^n 2^{l-n}\,\mathrm{AB}(c(s_l), t_l) $$ ([Heo et al. 2019](https://arxiv.org/abs/1811.03233)), see
    ``activation_boundary``.

    The student's feature goes through the paper's connector $c$, a 1x1 convolution without bias and a batch norm. It is
    trained and saved with the criterion, outside the student. The halving of earlier pairs is that of the authors' code.
    The teacher's feature may also be one after the ReLU, as 0 counts as inactive. The paper trains with this loss first and
    with labels afterwards; to do so, schedule ``ab.weight`` down to 0 and ``hard.weight`` up with a ``Step``.

    Args:
        student_layer: A layer reference, a glob or a list of them, from the first to the last; or ``auto``, the ends
            of the stages.
        teacher_layer: The teacher's layers, as many.
        margin: The margin around the boundary, above 0; 1 in the authors' code.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: The margin is out of range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student, teacher = (Outputs(torch.zeros(4, 2), {"conv": torch.randn(4, 3, 2, 2)}) for _ in range(2))
        >>> round(AB("conv", "conv")(student, teacher).item(), 2)
        16.17
    """

    citation = Citation(
        "AB",
        'Heo et al. 2019, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", AAAI',
        weight=0.003,
        url="https://arxiv.org/abs/1811.03233",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        margin: float = 1.0,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True, projector_norm="batch", pair=pair)
        self.margin = check_number("margin", margin, above=0)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [
            2.0 ** (index + 1 - len(pairs)) * activation_boundary(feature_s, feature_t, self.margin)
            for index, (feature_s, feature_t) in enumerate(pairs)
        ]
        return torch.stack(values).sum()
