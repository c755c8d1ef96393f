"""FSP: flow of the solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import at_common_size, channel_dim, need_positions, positions_last
from lit_distill.outputs import Outputs


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return ``G_cd = mean_p F1_cp F2_dp``, ``[B, C, D]``, of two layers' maps ``[B, C, H, W]`` and ``[B, D, H', W']``.

    The larger map is average-pooled to the size of the other. The positions may be those of tokens ``[B, N, C]``.
    """
    first, second = (positions_last(feature) for feature in at_common_size(first, second))
    return torch.bmm(first, second.transpose(1, 2)) / first.shape[2]


def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""Return the FSP loss ([Yim et al. 2017](https://doi.org/10.1109/CVPR.2017.754), section 3).

    $$ \sum_l \mathrm{mean}\,(G^s_l - G^t_l)^2, \quad G_{l,cd} = \frac{1}{HW} \sum_p F_{l,cp} F_{l+1,dp} $$

    The paper sums the squares over a matrix (its equation 2), which is ``C D`` times this value.

    Args:
        student: Two or more maps ``[B, C, H, W]`` of one network, in order; sizes may differ.
        teacher: As many maps, with the same channels as the student's.

    Examples:
        >>> student = [torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 1.0]]]])]
        >>> fsp(student, [torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])])
        tensor(1.)
    """
    layers = zip(pairwise(student), pairwise(teacher), strict=True)
    return torch.stack([F.mse_loss(flow(*maps_s), flow(*maps_t)) for maps_s, maps_t in layers]).sum()


class FSP(FeatureCriterion):
    r"""Compares how features change from layer to layer; the sum over consecutive layers.

    $$ \sum_l \mathrm{mean}\,(G^s_l - G^t_l)^2 $$ ([Yim et al. 2017](https://doi.org/10.1109/CVPR.2017.754)), see ``fsp``.

    Of ``n`` layers there are ``n - 1`` matrices. Both networks' layers need the same channels; sizes need not match. It has
    no parameters. The paper trains the matrices first and the labels afterwards. The value scales with the fourth power of
    the features, so that a large weight diverges: keep weight times learning rate below 0.5. RepDistiller and KD-Zoo take
    the same mean; torchdistill sums the norms of the difference's columns, not squared, per sample, and pools by the
    maximum: no constant factor relates the two.

    Args:
        student_layer: A list of two or more layer references or a glob; maps or tokens; or ``auto``, the ends of the stages.
        teacher_layer: The teacher's layers, as many.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Examples:
        >>> maps = {"layer1": torch.tensor([[[[1.0, 2.0]]]]), "layer2": torch.tensor([[[[1.0, 1.0]]]])}
        >>> student, teacher = Outputs(torch.zeros(1, 2), maps), Outputs(torch.zeros(1, 2), {k: v + 1 for k, v in maps.items()})
        >>> FSP("layer*", "layer*")(student, teacher)
        tensor(12.2500)
    """

    makes_maps_if_unequal = True
    citation = Citation(
        "FSP",
        'Yim et al. 2017, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer '
        'Learning", CVPR',
        weight=50.0,
        url="https://doi.org/10.1109/CVPR.2017.754",
    )
    fewest_pairs = 2

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Pair two or more layers; refuse features without positions, and pairs of different channels."""
        super().build(student, teacher)
        if len(self.pairs) < 2:
            raise ValueError("FSP compares the change from one layer to the next: name at least two for each network.")
        for name_s, name_t in self.pairs:
            feature_s, feature_t = student.features[name_s], teacher.features[name_t]
            need_positions("FSP", feature_s, feature_t)
            width_s, width_t = (feature.shape[channel_dim(feature)] for feature in (feature_s, feature_t))
            if width_s != width_t:
                raise ValueError(
                    f"FSP needs the same channels in both networks, and {name_s} has {width_s} and {name_t} {width_t}."
                )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        maps_s, maps_t = zip(*self.pair_features(student, teacher), strict=True)
        return fsp(maps_s, maps_t)
