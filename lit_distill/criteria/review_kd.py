"""ReviewKD: knowledge review."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import as_maps, same_shape
from lit_distill.outputs import Outputs

_LEVELS = (4, 2, 1)
_WIDEST = 512


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the hierarchical context loss of ReviewKD ([Chen et al. 2021](https://arxiv.org/abs/2104.09044), section 3.3).

    $$ \frac{\sum_l w_l\,\mathrm{mean}\,(\mathrm{pool}_l(s) - \mathrm{pool}_l(t))^2}{\sum_l w_l} $$

    The levels are the whole map with weight 1, and its average-pooled 4x4, 2x2 and 1x1 with 1/2, 1/4 and 1/8; a level
    that is no smaller than the map is left out and the weights move up, as in the authors' code.

    Args:
        student: ``[B, C, H, W]``.
        teacher: The same shape.

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> hcl(torch.tensor([[[[1.0, 2.0], [0.0, 1.0]]]]), torch.tensor([[[[3.0, 1.0], [0.0, 0.0]]]]))
        tensor(1.)
    """
    same_shape(student, teacher)
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
    """Attention-based fusion (section 3.3) of a stage of the student with the fused deeper stages; the deepest has none.

    Both are weighted per position by a sigmoid, which a 1x1 convolution computes from the two side by side, and added.
    """

    def __init__(self, width_s: int, middle: int, width_t: int, deepest: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(width_s, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.out = nn.Sequential(nn.Conv2d(middle, width_t, 3, padding=1, bias=False), nn.BatchNorm2d(width_t))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        for block in (self.reduce, self.out):
            nn.init.kaiming_uniform_(block[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, stage: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse a stage ``[B, width_s, H, W]`` with the fused deeper ones, ``[B, middle, …]``, at the teacher's ``size``.

        The result is the map to compare with the teacher, ``[B, width_t, *size]``, and that for the next stage, of ``middle``.
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
    r"""Each stage of the student, fused with the deeper ones, against the teacher's; the sum over stages.

    $$ \sum_l \mathrm{HCL}\bigl(\mathrm{ABF}(s_l, \ldots, s_L), t_l\bigr) $$
    ([Chen et al. 2021](https://arxiv.org/abs/2104.09044)), see ``hcl``.

    Stages are named from the first to the last. The last is reviewed on its own, and each earlier one together with the
    fused deeper ones. Pooled vectors count as maps of one position, and come last in the authors' lists; in training they
    need batches of two samples or more. In the authors' code the teacher's features are those before the ReLU, if the model
    has such a layer. The fusion modules are trained and saved with the criterion, outside the student (on ImageNet up to
    512 channels, 3x3 convolutions). The authors tune the weight from 0.6 to 8, and let it rise over 20 epochs.

    Args:
        student_layer: A list of layer references or a glob: maps or square grids of tokens, and vectors at the end; or
            ``auto``, the ends of the stages.
        teacher_layer: The teacher's stages, as many and of the same kinds.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> maps = [{"1": torch.randn(2, 4, 4, 4), "2": torch.randn(2, 8, 2, 2)} for _ in range(2)]
        >>> student, teacher = Outputs(torch.zeros(2, 2), maps[0]), Outputs(torch.zeros(2, 2), maps[1])
        >>> round(ReviewKD(["1", "2"], ["1", "2"])(student, teacher).item(), 1)
        2.9
    """

    citation = Citation(
        "ReviewKD",
        'Chen et al. 2021, "Distilling Knowledge via Knowledge Review", CVPR',
        weight=1.0,
        url="https://arxiv.org/abs/2104.09044",
    )
    makes_maps = True

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)
        self.fusions = nn.ModuleList()

    def arrange(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        map_s, map_t = as_maps("ReviewKD", student, teacher, mask)
        return _as_map(map_s), _as_map(map_t)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the fusion modules; refuse a feature that is neither a map nor a vector."""
        super().build(student, teacher)
        if self.fusions:
            return
        stages = [self.arrange(student.features[s], teacher.features[t], student.mask) for s, t in self.pairs]
        middle = min(_WIDEST, stages[-1][0].shape[1])
        for index, (stage_s, stage_t) in enumerate(stages):
            deepest = index == len(stages) - 1
            self.fusions.append(Fusion(stage_s.shape[1], middle, stage_t.shape[1], deepest))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        deeper: Tensor | None = None
        stages = list(zip(self.pair_features(student, teacher), self.fusions, strict=True))
        for (feature_s, feature_t), fusion in reversed(stages):
            stage_s = feature_s.to(next(fusion.parameters()).dtype)
            reviewed, deeper = fusion(stage_s, deeper, tuple(feature_t.shape[2:]))
            values.append(hcl(reviewed.to(feature_t.dtype), feature_t))
        return torch.stack(values).sum()


def _as_map(feature: Tensor) -> Tensor:
    """Return a vector as a map of one position, and a map as it is."""
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() != 4:
        raise ValueError(
            f"ReviewKD compares maps [B, C, H, W] and vectors [B, C], and a feature is {list(feature.shape)}."
        )
    return feature
