"""ReviewKD: Chen et al. 2021, "Distilling Knowledge via Knowledge Review", section 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.outputs import Outputs

_LEVELS = (4, 2, 1)
_WIDEST = 512


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss: ``sum_l w_l mean (pool_l(s) - pool_l(t))² / sum_l w_l`` (section 3.3).

    The levels are the whole map with weight 1, and its average-pooled 4x4, 2x2 and 1x1 with 1/2, 1/4 and 1/8; a level
    that is no smaller than the map is left out and the weights move up, as in the authors' code.

    Args:
        student: ``[B, C, H, W]``.
        teacher: The same shape.

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student feature {list(student.shape)} does not match teacher feature {list(teacher.shape)}.")
    value, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for level in _LEVELS:
        if level >= student.shape[2]:
            continue
        weight /= 2
        total += weight
        small_s, small_t = F.adaptive_avg_pool2d(student, level), F.adaptive_avg_pool2d(teacher, level)
        value = value + weight * F.mse_loss(small_s, small_t)
    return value / total


class Fusion(nn.Module):
    """Attention-based fusion (section 3.3): a stage of the student, and what was fused from the deeper ones.

    Both are weighted by a sigmoid for each position, that a 1x1 convolution finds from the two side by side, and added.

    Args:
        width_s: The stage's channels.
        middle: Channels in which stages are fused.
        width_t: Channels of the teacher's stage.
        deepest: There is no deeper stage to fuse.
    """

    def __init__(self, width_s: int, middle: int, width_t: int, deepest: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(width_s, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.out = nn.Sequential(nn.Conv2d(middle, width_t, 3, padding=1, bias=False), nn.BatchNorm2d(width_t))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        for block in (self.reduce, self.out):
            nn.init.kaiming_uniform_(block[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, stage: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse a stage.

        Args:
            stage: ``[B, width_s, H, W]``.
            deeper: The deeper stages', ``[B, middle, …]``; None for the deepest.
            size: The teacher's height and width.

        Returns:
            What is compared with the teacher, ``[B, width_t, *size]``, and what the next stage fuses, ``[B, middle, *size]``.
        """
        fused: Tensor = self.reduce(stage)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            share = torch.sigmoid(self.attention(torch.cat([fused, deeper], dim=1)))
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        if fused.shape[2:] != size:
            fused = F.interpolate(fused, size, mode="nearest")
        return self.out(fused), fused


class ReviewKD(FeatureCriterion):
    """Each stage of the student, with the deeper ones fused into it, against the teacher's; the sum over stages.

    Stages are named from the first to the last. The last is reviewed alone, and each one before together with what came
    of the deeper ones. Pooled vectors are maps of one position, and stand last in the authors' lists; in training their
    batches need two samples. The teacher's features are those before the ReLU in the authors' code, where the model has
    such a layer.

    The fusion modules are this criterion's: trained, saved, and gone from the student. They are narrow on CIFAR and not
    so on ImageNet (up to 512 channels, 3x3 convolutions). The authors tune the weight for each pair of networks from 0.6
    to 8, and let it rise from 0 over 20 epochs: schedule it.

    Args:
        student_layer: A list of layer references or a glob: maps, and vectors at the end.
        teacher_layer: The teacher's stages, as many and of the same kinds.
    """

    about = About("ReviewKD", 'Chen et al. 2021, "Distilling Knowledge via Knowledge Review", CVPR', weight=1.0)

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str]) -> None:
        super().__init__(student_layer, teacher_layer)
        self.fusions = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the fusion modules.

        Raises:
            ValueError: A feature is neither a map nor a vector.
        """
        made = bool(self.pairs)
        super().build(student, teacher)
        if made:
            return
        stages = [(_as_map(student.features[s]), _as_map(teacher.features[t])) for s, t in self.pairs]
        middle = min(_WIDEST, stages[-1][0].shape[1])
        for index, (stage_s, stage_t) in enumerate(stages):
            deepest = index == len(stages) - 1
            self.fusions.append(Fusion(stage_s.shape[1], middle, stage_t.shape[1], deepest))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        deeper: Tensor | None = None
        stages = list(zip(self.pair_features(student, teacher), self.fusions, strict=True))
        for (feature_s, feature_t), fusion in reversed(stages):
            stage_t = _as_map(feature_t)
            stage_s = _as_map(feature_s).to(next(fusion.parameters()).dtype)
            reviewed, deeper = fusion(stage_s, deeper, tuple(stage_t.shape[2:]))
            values.append(hcl(reviewed.to(stage_t.dtype), stage_t))
        return torch.stack(values).sum()


def _as_map(feature: Tensor) -> Tensor:
    """A vector as a map of one position; a map as it is."""
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() != 4:
        raise ValueError(
            f"ReviewKD compares maps [B, C, H, W] and vectors [B, C], and a feature is {list(feature.shape)}."
        )
    return feature
