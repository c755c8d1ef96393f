"""NST: neuron selectivity transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import at_common_size, need_positions, positions_last, unit_length
from lit_distill.outputs import Outputs


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the squared maximum mean discrepancy of the channels ([Huang and Wang 2017](https://arxiv.org/abs/1707.01219)).

    $$ \mathrm{mean}\,(t_c^\top t_{c'})^2 + \mathrm{mean}\,(s_c^\top s_{c'})^2 - 2\,\mathrm{mean}\,(t_c^\top s_{c'})^2 $$

    The means run over samples and pairs of channels, each channel's map being a
    unit vector (the polynomial kernel with d = 2, c = 0), in batched products: published code is 35 to 55 times as slow.

    Args:
        student: ``[B, C, H, W]``, or tokens ``[B, N, C]``; if the sizes differ, the larger map is average-pooled.
        teacher: ``[B, C', H', W']``; channels need not match.

    Examples:
        >>> nst(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]]))
        tensor(0.5000)
    """
    patterns_s, patterns_t = (unit_length(positions_last(feature)) for feature in at_common_size(student, teacher))
    return _kernel(patterns_t, patterns_t) + _kernel(patterns_s, patterns_s) - 2 * _kernel(patterns_t, patterns_s)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of ``(x'y)²`` over samples and pairs of channels."""
    return torch.bmm(first, second.transpose(1, 2)).square().mean()


class NST(FeatureCriterion):
    r"""Compares where each channel is active, as a distribution over channels; the sum over pairs of layers.

    $$ \mathrm{MMD}^2(\{s_c\}, \{t_c\}) $$ ([Huang and Wang 2017](https://arxiv.org/abs/1707.01219)), see ``nst``.

    It has no parameters, and channels need not match. RepDistiller's weight is 50 (beta / 2 with beta = 1e2).

    Args:
        student_layer: A layer reference, a glob a glob or a list of them; maps or tokens; or ``auto``, the ends of the stages.
        teacher_layer: The teacher's layers, as many.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Examples:
        >>> student = Outputs(torch.zeros(1, 2), {"layer1": torch.tensor([[[[1.0, 0.0]]]])})
        >>> teacher = Outputs(torch.zeros(1, 2), {"block1": torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])})
        >>> NST("layer1", "block1")(student, teacher)
        tensor(0.5000)
    """

    makes_maps_if_unequal = True
    citation = Citation(
        "NST",
        'Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv 1707.01219',
        weight=50.0,
        url="https://arxiv.org/abs/1707.01219",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        for pair in self.pair_features(student, teacher):
            feature_s, feature_t = at_common_size(*pair)
            need_positions("NST", feature_s, feature_t)
            values.append(nst(feature_s, feature_t))
        return torch.stack(values).sum()
