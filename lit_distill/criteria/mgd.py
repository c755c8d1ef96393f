"""MGD: masked generative distillation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lit_distill.criteria.base import Citation, FeatureCriterion, in_own_type
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import as_maps, need_maps, same_shape
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_number

Masked = Literal["channels", "positions"]
MASKED: tuple[Masked, ...] = ("channels", "positions")


def random_mask(feature: Tensor, masked: Masked, ratio: float) -> Tensor:
    """Return ones, and zeros with probability ``ratio``, per channel ``[B, C, 1, 1]`` or position ``[B, 1, H, W]``.

    The device's default generator draws them, which checkpoints restore.
    """
    batch, channels, height, width = feature.shape
    shape = (batch, channels, 1, 1) if masked == "channels" else (batch, 1, height, width)
    return (torch.rand(shape, device=feature.device) >= ratio).to(feature.dtype)


def mgd(generated: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the masked generative distillation loss ([Yang et al. 2022](https://arxiv.org/abs/2205.01529), equation 5).

    $$ \tfrac1B \sum \bigl(G(f^s \cdot M) - f^t\bigr)^2 $$

    It is a sum over the elements of a sample and a mean over the batch.

    Args:
        generated: The map generated from the student's masked map, ``[B, C, H, W]``.
        teacher: The teacher's map, the same shape.

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> mgd(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 1.0]]]]))
        tensor(5.)
    """
    same_shape(generated, teacher)
    return (generated - teacher).square().sum() / len(teacher)


class MGD(FeatureCriterion):
    r"""The teacher's whole map, generated from the student's with parts masked out; the sum over pairs of layers.

    $$ \tfrac1B \sum \bigl(G(f^s \cdot M) - f^t\bigr)^2 $$ ([Yang et al. 2022](https://arxiv.org/abs/2205.01529)), see ``mgd``.

    The student's map is brought to the teacher's shape (by a 1x1 convolution if the channels differ), masked anew in every
    batch, and passed through a 3x3 convolution, ReLU and a 3x3 convolution of the teacher's width, ``18 C²`` weights per
    pair. They are trained and saved with the criterion, outside the student. Nothing is masked in evaluation mode. The
    authors mask 15 % of the channels for classification, and 65 % of the positions for dense tasks, weight 2e-5.

    Args:
        student_layer: A layer reference, a glob or a list of them; or ``auto``, the last stage's end.
        teacher_layer: The teacher's layers, as many; maps, or tokens that are a square grid, without their class tokens.
        masked: ``channels`` or ``positions``.
        ratio: The average share that is masked, in [0, 1).
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student, teacher = (Outputs(torch.zeros(2, 2), {"conv": torch.randn(2, 3, 4, 4)}) for _ in range(2))
        >>> round(MGD("conv", "conv")(student, teacher).item(), 1)
        38.8
    """

    citation = Citation(
        "MGD",
        'Yang et al. 2022, "Masked Generative Distillation", ECCV',
        weight=7e-5,
        url="https://arxiv.org/abs/2205.01529",
    )
    auto_stages = "last"
    makes_maps = True
    auto_ratio = 0.3  # the generator's gradients are steep; with 1, up to two points lost on digits

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        masked: Masked = "channels",
        ratio: float = 0.15,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True, pair=pair)
        check_choice("masked", masked, MASKED)
        self.masked: Masked = masked
        self.ratio = check_number("ratio", ratio, least=0, below=1)
        self.generators = nn.ModuleList()

    def arrange(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if teacher.dim() != 3:  # a projector makes a map of the student's tokens
            return student, teacher
        return as_maps("MGD", student, teacher, mask)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the projectors and the generators; refuse a teacher's feature that is not a map."""
        super().build(student, teacher)
        if self.generators:
            return
        pairs = [(student.features[name_s], teacher.features[name_t]) for name_s, name_t in self.pairs]
        features = [self.arrange(*pair, student.mask)[1] for pair in pairs]
        for feature in features:
            need_maps("MGD", feature)
        for feature in features:
            width = feature.shape[1]
            first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
            self.generators.append(nn.Sequential(first, nn.ReLU(), second))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        pairs = self.pair_features(student, teacher)
        for (feature_s, feature_t), generator in zip(pairs, self.generators, strict=True):
            seen = feature_s * random_mask(feature_s, self.masked, self.ratio) if self.training else feature_s
            values.append(mgd(in_own_type(generator, seen), feature_t))
        return torch.stack(values).sum()
