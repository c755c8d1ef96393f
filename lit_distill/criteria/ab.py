"""AB: Heo et al. 2019, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons"."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number


def activation_boundary(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """``sum [t > 0] max(0, m - s)² + [t <= 0] max(0, m + s)²`` over a sample's elements, the mean over the batch.

    The paper's alternative, differentiable loss: whether a neuron is active is what counts, and not how much.

    Args:
        student: Before the ReLU, ``[B, …]``.
        teacher: The same shape; of it the sign alone is read.
        margin: ``m``, above 0.
    """
    side = torch.where(teacher > 0, 1.0, -1.0).to(student.dtype)
    return (margin - side * student).clamp(min=0).square().sum() / len(student)


class AB(FeatureCriterion):
    """Which neurons are active, the boundary between the two kept at a margin; the weighted sum over pairs.

    The student's feature goes through a 1x1 convolution without bias and a batch norm (the paper's connector), which are
    trained, saved, and gone from the student. Of ``n`` pairs the last counts 1, the one before 1/2, and so on, as in the
    authors' code; their weight of the sum is 0.003. The teacher's feature may be one after the ReLU, for only its sign is
    read; it is 0 for none.

    The paper trains this alone first, and then the labels alone. Here both go together; schedule the weights for two
    stages: ``ab.weight`` down to 0, and ``hard.weight`` up from 0, by a ``Step``.

    Args:
        student_layer: A layer reference, a glob or a list of them, from the first to the last.
        teacher_layer: The teacher's layers, as many.
        margin: Above 0; 1 in the authors' code.

    Raises:
        ValueError: The margin is out of range.
    """

    about = About(
        "AB",
        'Heo et al. 2019, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", AAAI',
        weight=0.003,
    )

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str], margin: float = 1.0) -> None:
        super().__init__(student_layer, teacher_layer, project=True, projector_norm="batch")
        self.margin = check_number("margin", margin, above=0)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [
            2.0 ** (index + 1 - len(pairs)) * activation_boundary(feature_s, feature_t, self.margin)
            for index, (feature_s, feature_t) in enumerate(pairs)
        ]
        return torch.stack(values).sum()
