"""NST: Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer"."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.criteria.ops.features import at_common_size, need_maps
from lit_distill.criteria.ops.normalisation import unit_length
from lit_distill.outputs import Outputs


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels' selectivity patterns, with the kernel ``k(x, y) = (x'y)²``.

    ``mean_n [mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') - 2 mean_cc' k(t_c, s_c')]`` with each channel's map as one
    unit vector (the polynomial kernel with d = 2, c = 0). The three kernels are batched products: published
    code holds ``C² H W`` numbers a sample for the same value, 35 to 55 times as slow.

    Args:
        student: ``[B, C, H, W]``; of two sizes the larger is average-pooled.
        teacher: ``[B, C', H', W']``; channels need not match.
    """
    patterns_s, patterns_t = (unit_length(feature.flatten(2)) for feature in at_common_size(student, teacher))
    return _kernel(patterns_t, patterns_t) + _kernel(patterns_s, patterns_s) - 2 * _kernel(patterns_t, patterns_s)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """``mean (x'y)²`` over samples and pairs of channels."""
    return torch.bmm(first, second.transpose(1, 2)).square().mean()


class NST(FeatureCriterion):
    """Where each channel is active, as a distribution over channels; the sum over pairs.

    It has no parameters, and channels need not match; it costs ``B C²`` numbers and products of the maps. RepDistiller's
    weight is 50 (beta / 2 with beta = 1e2 in the paper).

    Args:
        student_layer: A layer reference, a glob or a list of them; maps.
        teacher_layer: The teacher's layers, as many.
    """

    about = About(
        "NST",
        'Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv 1707.01219',
        weight=50.0,
    )

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str]) -> None:
        super().__init__(student_layer, teacher_layer)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        for feature_s, feature_t in self.pair_features(student, teacher):
            need_maps("NST", feature_s, feature_t, volumes=True)
            values.append(nst(feature_s, feature_t))
        return torch.stack(values).sum()
