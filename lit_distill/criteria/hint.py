"""Hints: FitNets and the methods that grew from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import (
    NORMALISATIONS,
    Normalise,
    channel_dim,
    counting_rows,
    normalise,
    same_shape,
    unit_length,
)
from lit_distill.criteria.projectors import KINDS, Kind, Norm, Projector, ProjectorEnsemble
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_flag, check_whole

Distance = Literal["l2", "l1", "smooth_l1", "cosine", "log_sum"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
_ELEMENTWISE = {"l2": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}
_LOG_FLOOR = 1e-6  # bounds the gradient of log_sum by 72; at unit variance the sum is some 12 per channel


def hint(student: Tensor, teacher: Tensor, distance: Distance = "l2") -> Tensor:
    r"""Return the distance between two features ([Romero et al. 2015](https://arxiv.org/abs/1412.6550), section 2.2).

    $$ \mathrm{mean}\,(s - t)^2 $$

    This is ``l2``, over every element; the paper's equation 3 is half the sum over a sample's elements. ``l1`` and
    ``smooth_l1`` are means over elements too; ``cosine`` is ``1 - cos`` over channels, averaged over positions. ``log_sum``
    is ``log(mean_n sum_c |s - t|^4 + 1e-6)`` ([Miles and Mikolajczyk 2024](https://arxiv.org/abs/2303.11098), SRD). The
    authors sum over the N samples as well, which adds ``log N`` and changes no gradient; as a mean, the value does not
    depend on the size of the batch. It is not 0 at ``s = t``: it falls without bound as they meet, or to log 1e-6 = -13.8
    with the constant that keeps it finite there. If no position counts, every distance is 0.

    Args:
        student: The student's feature, projected: ``[B, D]``, ``[B, N, D]`` or ``[B, C, H, W]``.
        teacher: The teacher's feature, the same shape.
        distance: ``l2``, ``l1``, ``smooth_l1``, ``cosine`` or ``log_sum``.

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> hint(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]]))
        tensor(2.)
        >>> hint(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]), "cosine")
        tensor(0.4000)
    """
    same_shape(student, teacher)
    if not student.numel():
        return student.sum()  # no position counts: 0, with a gradient of 0
    if distance in _ELEMENTWISE:
        return _ELEMENTWISE[distance](student, teacher)
    dim = channel_dim(student)
    if distance == "log_sum":
        return ((student - teacher).pow(4).sum(dim).mean() + _LOG_FLOOR).log()
    return (1 - (unit_length(student, dim) * unit_length(teacher, dim)).sum(dim)).mean()


class Hint(FeatureCriterion):
    r"""The student's features, projected, against the teacher's; the mean over pairs of layers.

    $$ d(P(s), t), \quad d = \mathrm{mean}\,(P(s) - t)^2 \text{ in FitNets} $$
    ([Romero et al. 2015](https://arxiv.org/abs/1412.6550)), see ``hint``.

    Projectors are sized when the shapes are first seen; with ``projector: auto`` and equal shapes, the projector is
    the identity. The options give the published methods (weights in this library's reductions):

    - FitNets: the defaults; other code weighs this between 1 and 100, RepDistiller 100 for one stage.
    - PKD ([Cao et al. 2022](https://arxiv.org/abs/2207.02039)): ``normalise: channel``. Half the square of standardised
      features is ``1 - rho``, the Pearson correlation of a channel over batch and positions. The paper's weight of half the
      mean square in Open-MMLab is 10 for detection: 5 here, times the number of pairs, which are summed there. That code adds
      1e-6 to the deviation, this 1e-6 to the variance. One sample without positions is constant after normalising.
    - SRD ([Miles and Mikolajczyk 2024](https://arxiv.org/abs/2303.11098)): ``distance: log_sum, normalise: channel,
      projector: linear`` on pooled features, weight 2, with a soft target at T = 1.
    - VkD ([Miles, Elezi and Deng 2024](https://arxiv.org/abs/2403.06213)): ``distance: smooth_l1, normalise: layer,
      normalise_student: false, projector: orthogonal`` on pooled features, weight 1, with a soft target at T = 1.
    - PEFD ([Chen et al. 2022](https://arxiv.org/abs/2210.15274)): ``distance: cosine, num_projectors: 3``, pooled, weight 25.

    A projector has ``D_s D_t`` parameters; an orthogonal one solves a linear system of the larger width at every step.

    Args:
        student_layer: A layer reference, a glob or a list of them; or ``auto``, the ends of the stages.
        teacher_layer: The teacher's layers, as many.
        distance: ``l2`` (the paper's), ``l1``, ``smooth_l1``, ``cosine`` or ``log_sum``.
        normalise: ``none``, ``l2``, ``layer`` or ``channel``, of both features before the distance.
        projector_norm: Normalisation inside the projector: ``none``, ``batch`` or ``layer``.
        projector: ``auto`` (linear if the channels differ), ``linear`` (always) or ``orthogonal``.
        num_projectors: If above 1, the mean of this many projectors, each with a ReLU.
        normalise_student: Whether ``normalise`` applies to the student's feature too, not only to the teacher's.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: An argument is none of its choices.

    Examples:
        >>> student = Outputs(torch.zeros(1, 2), {"layer2": torch.tensor([[1.0, 2.0]])})
        >>> teacher = Outputs(torch.zeros(1, 2), {"block3": torch.tensor([[3.0, 2.0]])})
        >>> Hint("layer2", "block3", distance="l1")(student, teacher)
        tensor(1.)
    """

    citation = Citation(
        "FitNets",
        'Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", ICLR',
        weight=100,
        url="https://arxiv.org/abs/1412.6550",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        distance: Distance = "l2",
        normalise: Normalise = "none",
        projector_norm: Norm = "none",
        projector: Kind = "auto",
        num_projectors: int = 1,
        normalise_student: bool = True,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True, projector_norm=projector_norm, pair=pair)
        check_choice("distance", distance, DISTANCES)
        check_choice("normalise", normalise, NORMALISATIONS)
        check_choice("projector", projector, KINDS)
        self.distance: Distance = distance
        self.normalise: Normalise = normalise
        self.projector: Kind = projector
        self.num_projectors = check_whole("num_projectors", num_projectors, least=1)
        self.normalise_student = check_flag("normalise_student", normalise_student)

    def make_projector(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        if self.num_projectors > 1:
            return ProjectorEnsemble(student, teacher, self.num_projectors, self.projector_norm, self.projector)
        return Projector(student, teacher, self.projector_norm, self.projector)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        kind_s: Normalise = self.normalise if self.normalise_student else "none"
        values = []
        for pair in self.pair_features(student, teacher):
            alike = pair[0].shape == pair[1].shape
            feature_s, feature_t = (counting_rows(one, student.mask) if alike else one for one in pair)
            values.append(hint(normalise(feature_s, kind_s), normalise(feature_t, self.normalise), self.distance))
        return torch.stack(values).mean()
