"""Hints: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", section 2.2."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria.base import FeatureCriterion, check_choice
from lit_distill.outputs import Outputs
from lit_distill.projectors import Norm

Distance = Literal["l2", "l1", "smooth_l1", "cosine"]
DISTANCES: tuple[Distance, ...] = ("l2", "l1", "smooth_l1", "cosine")
Normalise = Literal["none", "l2", "layer", "channel"]
NORMALISATIONS: tuple[Normalise, ...] = ("none", "l2", "layer", "channel")


def hint(student: Tensor, teacher: Tensor, distance: Distance = "l2") -> Tensor:
    """The distance of two features of one shape.

    ``l2`` is the mean of squared differences over every element; the paper's equation 3 is half the sum
    over a sample's elements, which differs by a constant factor for a given layer. ``l1`` and
    ``smooth_l1`` are means over elements too; ``cosine`` is ``1 - cos`` over channels, mean over positions.

    Args:
        student: The student's feature, projected: ``[B, D]``, ``[B, N, D]`` or ``[B, C, H, W]``.
        teacher: The teacher's feature, the same shape.
        distance: Which distance.

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student feature {list(student.shape)} does not match teacher feature {list(teacher.shape)}.")
    if distance == "l2":
        return F.mse_loss(student, teacher)
    if distance == "l1":
        return F.l1_loss(student, teacher)
    if distance == "smooth_l1":
        return F.smooth_l1_loss(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=channel_dim(student))).mean()


def normalise(feature: Tensor, kind: Normalise) -> Tensor:
    """Bring a feature to a common scale.

    ``l2``: unit length over channels at each position. ``layer``: mean 0 and variance 1 over channels at
    each position. ``channel``: mean 0 and variance 1 of each channel over batch and positions (Cao et al.
    2022, PKD, section 3.2).

    Args:
        feature: ``[B, D]``, ``[B, N, D]`` or ``[B, C, H, W]``.
        kind: Which normalisation.
    """
    dim = channel_dim(feature)
    if kind == "none":
        return feature
    if kind == "l2":
        return F.normalize(feature, dim=dim)
    dims = [dim] if kind == "layer" else [d for d in range(feature.dim()) if d != dim % feature.dim()]
    variance, mean = torch.var_mean(feature, dim=dims, correction=0, keepdim=True)
    return (feature - mean) / (variance + 1e-6).sqrt()


def channel_dim(feature: Tensor) -> int:
    """The channels' dimension: 1 in a map, the last in vectors and tokens."""
    return 1 if feature.dim() == 4 else -1


class Hint(FeatureCriterion):
    """The student's features, projected, against the teacher's; the mean over pairs.

    Projectors are sized when the shapes are first seen; where the shapes agree already, the projector is
    the identity. Peers weight this between 1 and 100; the scale depends on the layer, which ``normalise``
    takes out.

    Args:
        student_layer: A layer reference, a glob or a list of them.
        teacher_layer: The teacher's layers, as many.
        distance: ``l2`` (the paper's), ``l1``, ``smooth_l1`` or ``cosine``.
        normalise: ``none``, ``l2``, ``layer`` or ``channel``, of both features before the distance.
        projector_norm: Normalisation inside the projector: ``none``, ``batch`` or ``layer``.

    Raises:
        ValueError: An argument is none of its choices.
    """

    def __init__(
        self,
        student_layer: str | list[str],
        teacher_layer: str | list[str],
        distance: Distance = "l2",
        normalise: Normalise = "none",
        projector_norm: Norm = "none",
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True, projector_norm=projector_norm)
        check_choice("distance", distance, DISTANCES)
        check_choice("normalise", normalise, NORMALISATIONS)
        self.distance: Distance = distance
        self.normalise: Normalise = normalise

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = [
            hint(normalise(feature_s, self.normalise), normalise(feature_t, self.normalise), self.distance)
            for feature_s, feature_t in self.pair_features(student, teacher)
        ]
        return torch.stack(values).mean()
