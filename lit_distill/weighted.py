"""The weighted sum of named criteria: where every loss of the library is made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.criteria import Criterion
from lit_distill.outputs import Outputs


@dataclass(frozen=True)
class Losses:
    """One batch's losses.

    Attributes:
        total: The weighted sum, a scalar with a gradient.
        raw: Each criterion's value by name, detached.
        weights: The weight that each was multiplied by.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weights: dict[str, float]

    def named(self) -> dict[str, Tensor | float]:
        """What to log: total, raw and weighted values, weights."""
        logs: dict[str, Tensor | float] = {"loss": self.total.detach()}
        for name, value in self.raw.items():
            logs[f"criteria/{name}"] = value
            logs[f"weighted/{name}"] = value * self.weights[name]
            logs[f"weight/{name}"] = self.weights[name]
        return logs


class WeightedCriteria(nn.ModuleDict):
    """Named criteria and their weights.

    A criterion of weight 0 is computed without a gradient: it is logged, and trains nothing; where it needs labels and
    there are none, it is left out.

    Args:
        criteria: Criteria by name.
        weights: A finite weight of 0 or more for each name.

    Raises:
        ValueError: A weight is missing, negative, not finite, or of no criterion; or all are 0.
        TypeError: A value is no ``Criterion``.
    """

    def __init__(self, criteria: Mapping[str, Criterion], weights: Mapping[str, float]) -> None:
        _check_criteria(criteria)
        _check_weights(criteria, weights)
        super().__init__(dict(criteria))
        self.weights = {name: float(weights[name]) for name in criteria}

    def criteria(self) -> dict[str, Criterion]:
        """The criteria by name, as what they are."""
        return {name: module for name, module in self.items() if isinstance(module, Criterion)}

    @property
    def student_layers(self) -> list[str]:
        """Every student layer that a criterion reads."""
        return [layer for criterion in self.criteria().values() for layer in criterion.student_layers]

    @property
    def teacher_layers(self) -> list[str]:
        """Every teacher layer that a criterion reads."""
        return [layer for criterion in self.criteria().values() for layer in criterion.teacher_layers]

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size every criterion's own layers; those of a criterion of weight 0 are frozen, as nothing trains them.

        Raises:
            ValueError: A criterion cannot; the message starts with its name.
        """
        for name, criterion in self.criteria().items():
            with _named(name, criterion):
                criterion.build(student, teacher)
            if self.weights[name] == 0:
                criterion.requires_grad_(False)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Losses:
        """Compute every criterion and their weighted sum, outside autocast.

        Raises:
            ValueError: A criterion needs labels and there are none, or refuses its inputs.
        """
        raw: dict[str, Tensor] = {}
        terms: list[Tensor] = []
        with torch.autocast(student.logits.device.type, enabled=False):
            for name, criterion in self.criteria().items():
                weight = self.weights[name]
                if criterion.needs_target and target is None:
                    if weight == 0:
                        continue
                    raise ValueError(
                        f"criterion {name!r} ({type(criterion).__name__}) needs labels, and the batches have none; "
                        "leave it out, or give it the weight 0."
                    )
                with _named(name, criterion), torch.set_grad_enabled(torch.is_grad_enabled() and weight != 0):
                    value = criterion(student, teacher, target)
                raw[name] = value.detach()
                if weight != 0:
                    terms.append(weight * value)
            total = torch.stack(terms).sum() if terms else student.logits.sum() * 0
        return Losses(total, raw, dict(self.weights))


class _named:
    """Puts a criterion's name before what it refuses."""

    def __init__(self, name: str, criterion: Criterion) -> None:
        self.label = f"criterion {name!r} ({type(criterion).__name__})"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (ValueError, RuntimeError)) and not str(error).startswith("criterion "):
            raise type(error)(f"{self.label}: {error}") from error


def _check_criteria(criteria: Mapping[str, Criterion]) -> None:
    if not criteria:
        raise ValueError("no criteria; give at least one by name.")
    for name, criterion in criteria.items():
        if not isinstance(criterion, Criterion):
            raise TypeError(
                f"criterion {name!r} is a {type(criterion).__name__}, not a lit_distill.criteria.Criterion."
            )
        if "." in name or "/" in name or not name:
            raise ValueError(f"{name!r} cannot name a criterion; use letters, digits and underscores.")
        if hasattr(WeightedCriteria, name) or name in ("weights", "training"):
            raise ValueError(f"{name!r} cannot name a criterion: PyTorch's modules use that name; choose another.")


def _check_weights(criteria: Mapping[str, Criterion], weights: Mapping[str, float]) -> None:
    for name in weights:
        if name not in criteria:
            close = difflib.get_close_matches(name, criteria, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"weight for unknown criterion {name!r}; the criteria are {', '.join(criteria)}.{hint}")
    for name in criteria:
        if name not in weights:
            raise ValueError(f"criterion {name!r} has no weight; add it to weights: {{{name}: 1.0}}.")
        weight = weights[name]
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of criterion {name!r} must be finite and at least 0, not {weight}.")
    if not any(weights.values()):
        raise ValueError("every weight is 0: nothing would be trained.")
