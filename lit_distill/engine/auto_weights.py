"""Weights that are found in training, for the criteria that were given none."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_distill.balance import MeasuredNorms, weighted_sum
from lit_distill.criteria import Criterion

_REFERENCE = "reference/"  # no criterion has a slash in its name
_PATIENCE = 3  # batches without a gradient before it is an error


def ratio_of(criterion: Criterion) -> float:
    """Return the ratio of gradient norms that a criterion, or the one that it wraps, aims at."""
    return ratio_of(criterion.wrapped) if criterion.wrapped is not None else criterion.auto_ratio


class AutoWeights(MeasuredNorms):
    r"""Finds weights so that each criterion pulls on the student with a set ratio to the loss on labels.

    $$ w_i = \rho_i \frac{\bigl\| \nabla \sum_r w_r L_r \bigr\|}{\| \nabla L_i \|} $$

    $r$ runs over the reference: the criteria that need no teacher, or else those with a fixed weight, or else the first
    criterion. $\rho_i$ is ``Criterion.auto_ratio``. The norms are over all of the student's parameters. They are measured in
    the first batch and then once in 50 batches per measured gradient, so that the further backward passes take less than 2 %
    of the time. Fixed weights stay as they are.

    Args:
        found: The criteria whose weights are found.
        reference: The criteria that they are compared with.
        strength: The strength that the references' weights were multiplied by.
    """

    def __init__(self, found: Sequence[str], reference: Sequence[str], strength: float = 1.0) -> None:
        super().__init__(every=50 * (1 + len(found)), momentum=0.5)
        self.found = [name for name in found if name not in reference]
        self.reference = list(reference)
        self.strength = strength
        self._without_gradient = 0
        self._reported = False

    def build(self, names: Sequence[str]) -> None:
        """Make the buffers of the norms."""
        super().build([_REFERENCE, *self.found])

    def measures(self, names: Collection[str]) -> bool:
        return bool(self.found) and super().measures([*names, _REFERENCE])

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms.

        Raises:
            ValueError: A criterion had no gradient in the first batches, or one that is not finite.
        """
        if self.found and self.training and torch.is_grad_enabled():
            references = {name: value for name, value in terms.items() if name in self.reference}
            measured = {name: value for name, value in terms.items() if name in self.found}
            if references:
                measured[_REFERENCE] = weighted_sum(references, weights) / self.strength
            self._observe(measured, parameters)
        norms = self.known()
        factors = {name: norms[_REFERENCE] / norms[name] for name in terms if name in self.found}
        # An unmeasured criterion has no weight yet: any number could be far too large.
        factors = {name: 0.0 if math.isnan(factor) else factor for name, factor in factors.items()}
        effective = {name: weights[name] * factors.get(name, 1.0) for name in terms}
        if self._said is not None:
            self._report(effective, norms)
        return weighted_sum(terms, effective), effective

    def _report(self, effective: Mapping[str, float], norms: Mapping[str, float]) -> None:
        """Print the first weights that are found, and refuse criteria that show no gradient to find them from."""
        if self._reported:
            return
        waiting = [name for name in [_REFERENCE, *self.found] if math.isnan(norms[name])]
        waiting = [name for name in waiting if name in effective or name == _REFERENCE]
        if not waiting:
            words = [f"{name}: {effective[name]:.3g} times its value" for name in self.found if name in effective]
            rank_zero_info(f"Weights found in the first batches: {'; '.join(words)}.")
            self._reported = True
            return
        self._without_gradient += 1
        if self._without_gradient >= _PATIENCE:
            name = " and ".join(self.reference) if waiting[0] == _REFERENCE else waiting[0]
            raise ValueError(
                f"no weight can be found from the gradient of criterion {name!r}: in the first {_PATIENCE} batches it was 0 or "
                f"not finite. Check its layers and the data, or fix the weights by hand: weights={{{name!r}: 1.0}}."
            )
