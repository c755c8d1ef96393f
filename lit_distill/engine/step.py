"""The data of one training step: what the criteria compare, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from lit_distill.batch.batch import Target
from lit_distill.outputs import Outputs


@dataclass(frozen=True)
class Losses:
    """The losses of one batch.

    Attributes:
        total: The weighted sum, a scalar with a gradient.
        raw: Each criterion's value by name, detached.
        weights: Each criterion's present weight.
        terms: The values of the criteria with a weight above 0, with their gradients.
        scheduled: The values of scheduled settings by key, except weights and temperatures.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weights: dict[str, float]
    terms: dict[str, Tensor] = field(default_factory=dict)
    scheduled: dict[str, float] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor | float]:
        """Return what to log: total, raw and weighted values, weights, scheduled settings."""
        logs: dict[str, Tensor | float] = {"loss": self.total.detach()}
        for name, value in self.raw.items():
            logs[f"criteria/{name}"] = value
            logs[f"weighted/{name}"] = value * self.weights[name]
            logs[f"weight/{name}"] = self.weights[name]
        return logs | {f"schedule/{key}": value for key, value in self.scheduled.items()}


@dataclass(frozen=True)
class Sides:
    """The outputs and labels that the criteria compare for one batch, at the positions that count.

    Attributes:
        teacher: Detached from its graph unless it follows the criteria.
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
    """The loss of a training step: the criteria's, the teacher's own if it trains too, and the scalar to train with."""

    losses: Losses
    own: Tensor | None
    total: Tensor
