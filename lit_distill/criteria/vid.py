"""VID: variational information distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.base import Citation, FeatureCriterion, in_own_type
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import at_common_size, channel_dim, counting_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number

_EPS = 1e-5  # the smallest variance, as in the authors' code


def vid(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    r"""Return the negative log-likelihood of the teacher's feature ([Ahn et al. 2019](https://arxiv.org/abs/1904.05835)).

    $$ \mathrm{mean}\Bigl[\frac{(t - \mu(s))^2}{2 \sigma^2} + \log \sigma\Bigr] $$

    The constant, half of ``log 2 pi``, is left out, so that the value is below 0 if the teacher is predicted well. The
    mean is over every element, as in RepDistiller; the paper sums over a sample's elements.

    Args:
        mean: The student's prediction, ``[B, …, C]``, channels last.
        teacher: The teacher's feature, the same shape.
        variance: One per channel, ``[C]``, above 0.

    Examples:
        >>> vid(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]]), variance=torch.tensor([5.0, 5.0]))
        tensor(1.0047)
    """
    if not mean.numel():
        return mean.sum() + 0 * variance.sum()  # no position counts: 0, with a gradient of 0
    return 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()


class VID(FeatureCriterion):
    r"""The teacher's feature as a Gaussian whose mean the student predicts; the sum over pairs of layers.

    $$ \mathrm{mean}\bigl[(t - \mu(s))^2 / (2 \sigma^2) + \log \sigma\bigr] $$
    ([Ahn et al. 2019](https://arxiv.org/abs/1904.05835)), see ``vid``.

    The mean comes from three 1x1 convolutions with ReLU between them, ``channels_s -> channels_t -> channels_t ->
    channels_t`` without biases, as in the authors' code; each channel's variance is learned, as the softplus of a
    parameter, from ``variance``. Both are trained and saved with the criterion, outside the student; mdistiller keeps the
    variances in a plain list, where they are neither. If two maps differ in size, the larger is average-pooled.

    Args:
        student_layer: A layer reference, a glob or a list of them: maps, tokens of one number, or vectors; or
            ``auto``, the ends of the stages.
        teacher_layer: The teacher's layers, as many.
        variance: The initial variance, above 1e-5; 5 in the authors' code.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: The variance is out of range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student, teacher = (Outputs(torch.zeros(4, 2), {"pool": torch.randn(4, 6)}) for _ in range(2))
        >>> round(VID("pool", "pool")(student, teacher).item(), 1)
        0.9
    """

    makes_maps_if_unequal = True
    citation = Citation(
        "VID",
        'Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", CVPR',
        weight=1.0,
        url="https://arxiv.org/abs/1904.05835",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        variance: float = 5.0,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)
        self._start = check_number("variance", variance, above=_EPS)
        self.means = nn.ModuleList()
        self.scales = nn.ParameterList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the networks that predict the means, and the variances."""
        made = bool(self.pairs)
        super().build(student, teacher)
        if made:
            return
        for name_s, name_t in self.pairs:
            features = (student.features[name_s], teacher.features[name_t])
            width_s, width_t = (feature.shape[channel_dim(feature)] for feature in features)
            self.means.append(_mean_network(width_s, width_t))
            spread = self._start - _EPS
            self.scales.append(nn.Parameter(torch.full((width_t,), spread + math.log(-math.expm1(-spread)))))

    def variances(self) -> list[Tensor]:
        """Return the variances per channel, ``[C]``, of each pair."""
        return [F.softplus(scale) + _EPS for scale in self.scales]

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = []
        for (feature_s, feature_t), network, variance in zip(pairs, self.means, self.variances(), strict=True):
            same_s, same_t = at_common_size(feature_s, feature_t)
            if position_mask(student.mask, same_s) is not None:
                same_s, same_t = (counting_rows(feature, student.mask) for feature in (same_s, same_t))
            dim = channel_dim(same_s)
            mean = in_own_type(network, same_s.movedim(dim, -1))
            values.append(vid(mean, same_t.movedim(dim, -1), variance.to(same_t)))
        return torch.stack(values).sum()


def _mean_network(width_s: int, width_t: int) -> nn.Sequential:
    """Return linear layers over channels-last features, the same as 1x1 convolutions."""
    first, second, third = (nn.Linear(width, width_t, bias=False) for width in (width_s, width_t, width_t))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
