"""Weights that are found in training, for the criteria that were given none."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_distill.balance import MeasuredNorms, weighted_sum
from lit_distill.criteria import Criterion
from lit_distill.utils.measuring import joint_norm, mean_gradients

# With 1, PKT and MGD lost ten points on digits (one seed); criteria of logits lost nothing (two seeds).
_LOGIT_RATIO, _FEATURE_RATIO = 1.0, 0.3
WHO = "a weight that is found in training"
_PATIENCE = 3  # batches without a gradient before it is an error
_LARGEST_STEP, _LARGEST_CHANGE = 4.0, 10.0  # of a weight, from one measurement to the next, and since the first


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
    passes take less than 2 % of the time. The buffer ``norms`` holds each criterion's norm relative to the reference's, as a
    moving geometric mean; a norm of 0, or one that is not finite, is left out. From one measurement to the next, a weight
    changes by a factor of 4 at most, and it stays within a factor of 10 of the first that was found (buffer ``first``): it
    does not grow without bound as a criterion is fitted, nor vanish as the labels of the training data are.

    Args:
        found: The criteria whose weights are found.
        reference: The criteria that they are compared with.
        strength: The strength that the references' weights were multiplied by.
    """

    first: Tensor

    def __init__(self, found: Sequence[str], reference: Sequence[str], strength: float = 1.0) -> None:
        super().__init__(every=50 * (1 + len(found)), momentum=0.5)
        self.found = [name for name in found if name not in reference]
        self.reference = list(reference)
        self.strength = strength
        self._without_gradient = 0

    def build(self, names: Sequence[str]) -> None:
        """Make the buffers of the norms."""
        super().build(self.found)
        self.register_buffer("first", torch.zeros_like(self.norms))

    def _due(self, names: object = ()) -> bool:
        return bool(self.found) and super()._due(self.found)

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms.

        Raises:
            ValueError: A criterion had no gradient in the first batches, or one that is not finite.
        """
        waited = self._waiting(terms)
        references = {name: value for name, value in terms.items() if name in self.reference}
        if self.found and references and self.training and torch.is_grad_enabled():
            reference = weighted_sum(references, weights) / self.strength
            self._observe({**{name: terms[name] for name in self.found if name in terms}, "": reference}, parameters)
        # An unmeasured criterion has no weight yet: any number could be far too large.
        factors = {name: 0.0 if math.isnan(norm) else 1 / norm for name, norm in self.known().items()}
        effective = {name: weights[name] * factors.get(name, 1.0) for name in terms}
        if waited and self._said is not None:
            self._report(waited, effective)
        return weighted_sum(terms, effective), effective

    def _averaged(self, before: Tensor, measured: Tensor) -> Tensor:
        self.first.copy_(torch.where(self.first > 0, self.first, before))
        step = (measured / before) ** (1 - self.momentum)
        after = before * step.clamp(1 / _LARGEST_STEP, _LARGEST_STEP)
        return after.clamp(self.first / _LARGEST_CHANGE, self.first * _LARGEST_CHANGE)

    def _measure(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        """Return the norm of each term relative to the last's, over the parameters that both depend on."""
        *found, reference = terms
        references = mean_gradients(terms[reference], parameters, WHO)
        norms = {}
        for name in found:
            own = mean_gradients(terms[name], parameters, WHO)
            shared = [place for place in own if place in references]
            if shared:
                norms[name] = joint_norm(own[place] for place in shared) / joint_norm(references[p] for p in shared)
        return norms

    def _waiting(self, names: Collection[str]) -> list[str]:
        known = self.known()
        return [name for name in self.found if name in names and math.isnan(known[name])]

    def _report(self, waited: Sequence[str], effective: Mapping[str, float]) -> None:
        """Print the weights that are found now, and refuse criteria that show no gradient to find them from."""
        waiting = self._waiting(effective)
        words = [f"{name}: 1 = {in_words(effective[name])} x its value" for name in waited if name not in waiting]
        if words:
            rank_zero_info(f"Weights found in training: {'; '.join(words)}.")
        self._without_gradient = self._without_gradient + 1 if waiting else 0
        if self._without_gradient >= _PATIENCE:
            names = " and ".join(self.reference)
            raise ValueError(
                f"no weight can be found from the gradient of criterion {waiting[0]!r} and that of {names}: in the first "
                f"{_PATIENCE} batches one was 0 or not finite. Check the layers and the data, or fix the weight by hand: "
                f"weights={{{waiting[0]!r}: 1.0}}."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load a checkpoint, which may have been made when these weights, or some of them, were given as numbers."""
        shapes = {name: buffer.shape for name, buffer in self.named_buffers()}
        if any(getattr(state_dict.get(prefix + name), "shape", None) != shape for name, shape in shapes.items()):
            self.build(self.names)
            state_dict.update({prefix + name: buffer for name, buffer in self.named_buffers()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


def in_words(weight: float) -> str:
    """Return a weight with three digits: ``412``, ``3,120``, ``0.00125``."""
    return f"{float(f'{weight:.3g}'):,.6g}"
