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

_LOGIT_RATIO, _RATIO = 4.0, 1.0  # benchmarks/RESULTS.md says what others give
_FIRST = 64  # batches, of which those after 0, 1, 3, 7, … are measured
WHO = "a weight that is found in training"
_ROUNDING = 2.0**-18  # of the reference's gradient: what is left of one that is 0 in exact arithmetic


def ratio_of(criterion: Criterion) -> float:
    """Return the ratio of gradient norms that a criterion, or the one that it wraps, aims at."""
    if criterion.wrapped is not None:
        return ratio_of(criterion.wrapped)
    if criterion.auto_ratio is not None:
        return criterion.auto_ratio
    return _LOGIT_RATIO if criterion.compares_logits else _RATIO


class AutoWeights(MeasuredNorms):
    r"""Finds weights so that each criterion pulls on the student with a set ratio to the loss on labels.

    $$ w_i = \rho_i \frac{\sum_b \| \nabla_{\theta_i} \sum_r w_r L_{r,b} \|}{\sum_b \| \nabla_{\theta_i} L_{i,b} \|} $$

    $\theta_i$ are the student's parameters that criterion $i$ depends on: a criterion of an early layer competes with the
    label loss there, and not in the layers after it. $r$ runs over the reference: the criteria that need no teacher, or else
    those with a fixed weight, or else the first criterion. $\rho_i$ is ``Criterion.auto_ratio``. $b$ runs over batches 0, 1, 3,
    7, 15, 31 and 63, counted for each criterion from the first in which it has a weight; then the weight stays. One held at a
    ratio to the label loss's gradient would vanish as the labels are learned by heart, and one batch is not enough, as some
    gradients begin near 0. A gradient of 0, one of rounding errors, or one that is not finite, is left out, and the next batch
    is measured: a student that starts as its teacher shows nothing until its first step. ``DOT`` remembers the teacher's
    gradients longer than the labels': ``remember`` makes the ratio hold for what the steps add up to.

    Args:
        found: The criteria whose weights are found.
        reference: The criteria that they are compared with.
        strength: The strength that the references' weights were multiplied by.
    """

    BUFFERS = ("seen", "norms", "sums")
    sums: Tensor

    def __init__(self, found: Sequence[str], reference: Sequence[str], strength: float = 1.0) -> None:
        super().__init__()
        self.found = [name for name in found if name not in reference]
        self.reference = list(reference)
        self.strength = strength
        self.memories: dict[str, float] = {}
        self._without_gradient = 0
        self._other_places = False

    def remember(self, memories: Mapping[str, float]) -> None:
        """Divide found weights by how much longer the optimizer remembers a criterion's gradients than the reference's.

        Args:
            memories: What a gradient adds to all later steps together, in multiples of itself, by criterion; empty for an
                optimizer that treats all alike.
        """
        self.memories = {name: memories[name] / memories[self.reference[0]] for name in self.found} if memories else {}

    def expect(self, same_places: bool) -> None:
        """Say whether the state that is loaded next holds the weights of the same criteria, in the same order."""
        self._other_places = not same_places

    def build(self, names: Sequence[str]) -> None:
        """Make the buffers, by criterion: batches ``seen``, ``norms``, and the ``sums`` of its own and the reference's."""
        super().build(self.found)
        self.register_buffer("seen", torch.zeros(len(self.found), dtype=torch.long))
        self.register_buffer("sums", torch.zeros(2, len(self.found)))

    def _due(self, names: Collection[str]) -> bool:
        return bool(self._measured_now(names))

    def _measured_now(self, names: Collection[str]) -> list[str]:
        waiting = self._waiting(names)
        seen = dict(zip(self.found, self._seen.read(self.seen), strict=True))
        early = [name for name in self.found if name in names and seen[name] < _FIRST]
        return [name for name in names if name in waiting or (name in early and seen[name] & (seen[name] + 1) == 0)]

    def _count(self, names: Collection[str]) -> None:
        counts = self._seen.read(self.seen)
        after = [min(count + (name in names), _FIRST) for name, count in zip(self.found, counts, strict=True)]
        if after != counts:
            self.seen.copy_(torch.tensor(after))
            self._seen.note(self.seen, after)

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms.

        Raises:
            ValueError: A criterion had no gradient in its first batches, or one that is not finite.
        """
        waited = self._waiting(terms)
        references = {name: value for name, value in terms.items() if name in self.reference}
        if self.found and references and self.training and torch.is_grad_enabled():
            reference = weighted_sum(references, weights) / self.strength
            self._observe({**{name: terms[name] for name in self.found if name in terms}, "": reference}, parameters)
        # An unmeasured criterion has no weight yet: any number could be far too large.
        factors = {name: 0.0 if math.isnan(norm) else 1 / norm for name, norm in self.known().items()}
        effective = {name: weights[name] * factors.get(name, 1.0) / self.memories.get(name, 1.0) for name in terms}
        if waited and self._said is not None:
            self._report(waited, effective)
        return weighted_sum(terms, effective), effective

    def _measure(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        """Return the mean norm of each term relative to the last's, over the parameters that both depend on."""
        references = mean_gradients(terms[""], parameters, WHO)
        for name in self._measured_now(terms):
            own = mean_gradients(terms[name], parameters, WHO)
            shared = [place for place in own if place in references]
            if shared:
                norms = torch.stack([joint_norm(each[place] for place in shared) for each in (own, references)])
                counts = norms.isfinite().all() & (norms[1] > 0) & (norms[0] > _ROUNDING * norms[1])
                self.sums[:, self.found.index(name)] += torch.where(counts, norms, 0)
        return dict(zip(self.found, self.sums[0] / self.sums[1], strict=True))

    def _waiting(self, names: Collection[str]) -> list[str]:
        known = self.known()
        return [name for name in self.found if name in names and math.isnan(known[name])]

    def _report(self, waited: Sequence[str], effective: Mapping[str, float]) -> None:
        """Print the weights that are found now, and refuse criteria that show no gradient to find them from."""
        waiting = self._waiting(effective)
        words = [
            f"{name}: 1 = {weight_in_words(effective[name])} x its value" for name in waited if name not in waiting
        ]
        if words:
            rank_zero_info(f"Weights found in training: {'; '.join(words)} (refined in the first {_FIRST} batches).")
        self._without_gradient = self._without_gradient + 1 if waiting else 0
        if self._without_gradient >= _FIRST:
            names = " and ".join(self.reference)
            raise ValueError(
                f"no weight can be found from the gradient of criterion {waiting[0]!r} and that of {names}: in the "
                f"first {_FIRST} batches one was 0 or not finite. Check the layers and the data, or fix the weight by hand: "
                f"weights={{{waiting[0]!r}: 1.0}}."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load a checkpoint, which may have been made when these weights, or some of them, were given as numbers."""
        shapes = {name: buffer.shape for name, buffer in self.named_buffers()}
        unlike = any(getattr(state_dict.get(prefix + name), "shape", None) != shape for name, shape in shapes.items())
        if unlike or self._other_places:
            self.build(self.names)
            state_dict.update({prefix + name: buffer for name, buffer in self.named_buffers()})
            self._other_places = False
        super()._load_from_state_dict(state_dict, prefix, *rest)


def weight_in_words(weight: float) -> str:
    """Return a weight with three digits: ``412``, ``3,120``, ``0.00125``."""
    return f"{float(f'{weight:.3g}'):,.6g}"
