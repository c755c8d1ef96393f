"""Weights that are found in training, for the criteria that were given none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_distill.balance import MeasuredNorms, weighted_sum
from lit_distill.criteria import Criterion
from lit_distill.utils.measuring import joint_norm, mean_gradients

# With 1, PKT and MGD lost ten points on digits (one seed); criteria of logits lost nothing (two seeds).
_LOGIT_RATIO, _FEATURE_RATIO = 1.0, 0.3
_WHO = "a weight that is found in training"
_PATIENCE = 3  # batches without a gradient before it is an error


def ratio_of(criterion: Criterion) -> float:
    """Return the ratio of gradient norms that a criterion, or the one that it wraps, aims at."""
    if criterion.wrapped is not None:
        return ratio_of(criterion.wrapped)
    ratio = criterion.auto_ratio
    return ratio if ratio is not None else _LOGIT_RATIO if criterion.compares_logits else _FEATURE_RATIO


class AutoWeights(MeasuredNorms):
    r"""Finds weights so that each criterion pulls on the student with a set ratio to the loss on labels.

    $$ w_i = \rho_i \frac{\bigl\| \nabla_{\theta_i} \sum_r w_r L_r \bigr\|}{\| \nabla_{\theta_i} L_i \|} $$

    $\theta_i$ are the student's parameters that criterion $i$ depends on: a criterion of an early layer competes with the
    label loss there, and not in the layers after it. $r$ runs over the reference: the criteria that need no teacher, or else
    those with a fixed weight, or else the first criterion. $\rho_i$ is ``Criterion.auto_ratio``.

    The norms are measured in the first batch and then once in 50 batches per measured gradient, so that the further backward
    passes take less than 2 % of the time. The buffer ``norms`` holds each criterion's norm relative to the reference's.

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
        self._reported = not self.found

    def build(self, names: Sequence[str]) -> None:
        """Make the buffers of the norms."""
        super().build(self.found)

    def _due(self, names: object = ()) -> bool:
        return bool(self.found) and super()._due(self.found)

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms.

        Raises:
            ValueError: A criterion had no gradient in the first batches, or one that is not finite.
        """
        references = {name: value for name, value in terms.items() if name in self.reference}
        if self.found and references and self.training and torch.is_grad_enabled():
            reference = weighted_sum(references, weights) / self.strength
            self._observe({**{name: terms[name] for name in self.found if name in terms}, "": reference}, parameters)
        # An unmeasured criterion has no weight yet: any number could be far too large.
        factors = {name: 0.0 if math.isnan(norm) else 1 / norm for name, norm in self.known().items()}
        effective = {name: weights[name] * factors.get(name, 1.0) for name in terms}
        if self._said is not None and not self._reported:
            self._report(effective)
        return weighted_sum(terms, effective), effective

    def _measure(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        """Return the norm of each term relative to the last's, over the parameters that both depend on."""
        *found, reference = terms
        references = mean_gradients(terms[reference], parameters, _WHO)
        norms = {}
        for name in found:
            own = mean_gradients(terms[name], parameters, _WHO)
            shared = [place for place in own if place in references]
            if shared:
                norms[name] = joint_norm(own[place] for place in shared) / joint_norm(references[p] for p in shared)
        return norms

    def _report(self, effective: Mapping[str, float]) -> None:
        """Print the first weights that are found, and refuse criteria that show no gradient to find them from."""
        known = self.known()
        waiting = [name for name in self.found if name in effective and math.isnan(known[name])]
        if not waiting:
            words = [f"{name}: {effective[name]:.3g} times its value" for name in self.found if name in effective]
            rank_zero_info(f"Weights found in the first batches: {'; '.join(words)}.")
            self._reported = True
            return
        self._without_gradient += 1
        if self._without_gradient >= _PATIENCE:
            names = " and ".join(self.reference)
            raise ValueError(
                f"no weight can be found from the gradient of criterion {waiting[0]!r} and that of {names}: in the first "
                f"{_PATIENCE} batches one was 0 or not finite. Check the layers and the data, or fix the weight by hand: "
                f"weights={{{waiting[0]!r}: 1.0}}."
            )
