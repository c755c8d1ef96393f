"""VID: Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer"."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion, in_own_type
from lit_distill.criteria.ops.features import at_common_size, counting_rows
from lit_distill.criteria.ops.normalisation import channel_dim
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number

_EPS = 1e-5  # the least variance, as in the authors' code


def vid(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """``mean [(t - mu(s))² / (2 sigma²) + log sigma]``: the negative log-likelihood of the teacher's feature.

    Its constant, half of ``log 2 pi``, is left out, so that the value is below 0 where the teacher is well predicted. The
    mean is over every element, as in RepDistiller; the paper sums over a sample's elements.

    Args:
        mean: What the student predicts, ``[B, …, C]``, channels last.
        teacher: The teacher's feature, the same shape.
        variance: One for each channel, ``[C]``, above 0.
    """
    if not mean.numel():
        return mean.sum() + 0 * variance.sum()  # no position counts: 0, with a gradient of 0
    return 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()


class VID(FeatureCriterion):
    """The teacher's feature as a Gaussian whose mean the student predicts; the sum over pairs.

    The mean comes from three 1x1 convolutions with ReLU between, ``channels_s -> channels_t -> channels_t ->
    channels_t`` without biases, as in the authors' code; each channel's variance is learned, the softplus of a parameter
    that starts at ``variance``. Both are this criterion's: trained, saved, and gone from the student. Of two maps the
    larger is average-pooled. The weight is 1 in RepDistiller.

    Elsewhere: mdistiller keeps the variances in a plain list, where they are neither trained nor saved.

    Args:
        student_layer: A layer reference, a glob or a list of them: maps, tokens of one number, or vectors.
        teacher_layer: The teacher's layers, as many.
        variance: Every variance's start, above 1e-5; 5 in the authors' code.

    Raises:
        ValueError: The variance is out of range.
    """

    about = About(
        "VID", 'Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", CVPR', weight=1.0
    )

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str], variance: float = 5.0) -> None:
        super().__init__(student_layer, teacher_layer)
        self._start = check_number("variance", variance, above=_EPS)
        self.means = nn.ModuleList()
        self.scales = nn.ParameterList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the networks of the means and the variances."""
        made = bool(self.pairs)
        super().build(student, teacher)
        if made:
            return
        for name_s, name_t in self.pairs:
            width_s, width_t = (
                feature.shape[channel_dim(feature)] for feature in (student.features[name_s], teacher.features[name_t])
            )
            self.means.append(_mean_network(width_s, width_t))
            spread = self._start - _EPS
            self.scales.append(nn.Parameter(torch.full((width_t,), spread + math.log(-math.expm1(-spread)))))

    def variances(self) -> list[Tensor]:
        """Each pair's variances by channel, ``[C]``."""
        return [F.softplus(scale) + _EPS for scale in self.scales]

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = []
        for (feature_s, feature_t), network, variance in zip(pairs, self.means, self.variances(), strict=True):
            same_s, same_t = at_common_size(feature_s, feature_t)
            if position_mask(student.mask, same_s) is not None:
                same_s, same_t = (counting_rows(feature, student.mask) for feature in (same_s, same_t))
            dim = channel_dim(same_s)
            values.append(
                vid(in_own_type(network, same_s.movedim(dim, -1)), same_t.movedim(dim, -1), variance.to(same_t))
            )
        return torch.stack(values).sum()


def _mean_network(width_s: int, width_t: int) -> nn.Sequential:
    """Linear layers over channels that come last: the same as 1x1 convolutions."""
    return nn.Sequential(
        nn.Linear(width_s, width_t, bias=False),
        nn.ReLU(),
        nn.Linear(width_t, width_t, bias=False),
        nn.ReLU(),
        nn.Linear(width_t, width_t, bias=False),
    )
