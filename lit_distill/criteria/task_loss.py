"""A loss computed elsewhere, as one criterion among others."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.base import Criterion
from lit_distill.outputs import Outputs


class TaskLoss(Criterion):
    """The loss of a ``training_step`` without distillation, as a criterion that is weighted and logged like the rest.

    Attributes:
        value: A scalar, set for each batch.
    """

    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.zeros(())

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return self.value.reshape(())
