"""FSP: Yim, Joo, Bae and Kim 2017, "A Gift from Knowledge Distillation", section 3."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.criteria.ops.features import at_common_size, need_maps
from lit_distill.outputs import Outputs


def flow(first: Tensor, second: Tensor) -> Tensor:
    """``G_cd = mean_p F1_cp F2_dp``: the flow of the solution procedure between two layers.

    Args:
        first: ``[B, C, H, W]``.
        second: ``[B, D, H', W']`` of the same network; of two sizes the larger is average-pooled.

    Returns:
        ``[B, C, D]``.
    """
    first, second = (feature.flatten(2) for feature in at_common_size(first, second))
    return torch.bmm(first, second.transpose(1, 2)) / first.shape[2]


class FSP(FeatureCriterion):
    """How features turn from layer to layer: ``mean (G_s - G_t)²`` of each two layers that follow; the sum over them.

    Of ``n`` layers there are ``n - 1`` matrices. Both networks' layers need the same channels, for the matrices to compare;
    sizes need not match. It has no parameters. RepDistiller's weight is 50. The paper trains the matrices first, and the
    labels after that; here both go together. The value has the scale of the features to the fourth power, so that a large
    weight diverges: keep weight times learning rate below 0.5.

    Constant factors: the paper sums the squares over a matrix's ``C D`` elements and takes the mean over samples (its
    equation 2), ``C D`` times the value here. RepDistiller and KD-Zoo take this mean of squares. torchdistill sums the norms of
    the difference's columns, not squared, per sample, and pools by the maximum: no constant factor lies between the two.

    Args:
        student_layer: A list of two or more layer references or a glob; maps.
        teacher_layer: The teacher's layers, as many.
    """

    about = About(
        "FSP",
        'Yim et al. 2017, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer '
        'Learning", CVPR',
        weight=50.0,
    )

    def __init__(self, student_layer: list[str] | str, teacher_layer: list[str] | str) -> None:
        super().__init__(student_layer, teacher_layer)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Pair the layers.

        Raises:
            ValueError: There is one alone, a feature is no map, or a pair's channels differ.
        """
        super().build(student, teacher)
        if len(self.pairs) < 2:
            raise ValueError("FSP compares what lies between two layers: name at least two for each network.")
        for name_s, name_t in self.pairs:
            feature_s, feature_t = student.features[name_s], teacher.features[name_t]
            need_maps("FSP", feature_s, feature_t, volumes=True)
            if feature_s.shape[1] != feature_t.shape[1]:
                raise ValueError(
                    f"FSP needs the same channels in both networks, and {name_s} has {feature_s.shape[1]} and {name_t} "
                    f"{feature_t.shape[1]}."
                )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = []
        for (first_s, first_t), (second_s, second_t) in pairwise(pairs):
            values.append(F.mse_loss(flow(first_s, second_s), flow(first_t, second_t)))
        return torch.stack(values).sum()
