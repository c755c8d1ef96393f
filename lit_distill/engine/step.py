"""The data of one training step: what the criteria compare, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lit_distill.batch.batch import Target
from lit_distill.engine.weighted import Losses
from lit_distill.outputs import Outputs


@dataclass(frozen=True)
class Sides:
    """The outputs and labels that the criteria compare for one batch, at the positions that count.

    Attributes:
        student: The student's outputs.
        teacher: The teacher's outputs, detached from its graph unless it follows the criteria.
        target: The labels, by task if there are several; None without labels.
        parameters: The student's trainable parameters, for a balance that needs them.
        own_loss: The teacher's own loss, if it trains too.
    """

    student: Outputs
    teacher: Outputs
    target: Target | None
    parameters: Sequence[nn.Parameter] = ()
    own_loss: Tensor | None = None


@dataclass(frozen=True)
class StepLoss:
    """The loss of a training step.

    Attributes:
        losses: The criteria's losses.
        own: The teacher's own loss, if it trains too.
        total: The loss to train with, a scalar.
    """

    losses: Losses
    own: Tensor | None
    total: Tensor
