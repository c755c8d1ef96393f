"""MGD: Yang et al. 2022, "Masked Generative Distillation", section 3."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion, in_own_type
from lit_distill.criteria.ops.features import need_maps
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_number

Masked = Literal["channels", "positions"]
MASKED: tuple[Masked, ...] = ("channels", "positions")


def random_mask(feature: Tensor, masked: Masked, ratio: float) -> Tensor:
    """Ones, and zeros with probability ``ratio``, for each channel ``[B, C, 1, 1]`` or position ``[B, 1, H, W]``.

    Drawn from PyTorch's own generator of the device, which checkpoints restore.
    """
    batch, channels, height, width = feature.shape
    shape = (batch, channels, 1, 1) if masked == "channels" else (batch, 1, height, width)
    return (torch.rand(shape, device=feature.device) >= ratio).to(feature.dtype)


def mgd(generated: Tensor, teacher: Tensor) -> Tensor:
    """``sum (G(f_s · M) - f_t)² / B`` (equation 5): the sum over a sample's elements, the mean over the batch.

    Args:
        generated: What was generated from the student's masked map, ``[B, C, H, W]``.
        teacher: The teacher's map, the same shape.
    """
    return (generated - teacher).square().sum() / len(teacher)


class MGD(FeatureCriterion):
    """The teacher's whole map, generated from the student's with parts masked out; the sum over pairs.

    The student's map is brought to the teacher's shape (a 1x1 convolution where channels differ), masked anew in every
    batch, and put through 3x3 convolution, ReLU and 3x3 convolution of the teacher's width, ``18 C²`` weights a pair. These
    are this criterion's: trained, saved, and gone from the student. Nothing is masked in evaluation mode.

    The authors mask 15 % of the channels for classification, weight 7e-5, and 65 % of the positions for dense tasks, weight
    2e-5. The weights are small because the value is a sum over elements.

    Args:
        student_layer: A layer reference, a glob or a list of them.
        teacher_layer: The teacher's layers, as many; maps.
        masked: ``channels`` or ``positions``.
        ratio: How much of them on average, in [0, 1).

    Raises:
        ValueError: An argument is out of range.
    """

    about = About("MGD", 'Yang et al. 2022, "Masked Generative Distillation", ECCV', weight=7e-5)

    def __init__(
        self,
        student_layer: str | list[str],
        teacher_layer: str | list[str],
        masked: Masked = "channels",
        ratio: float = 0.15,
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True)
        check_choice("masked", masked, MASKED)
        self.masked: Masked = masked
        self.ratio = check_number("ratio", ratio, least=0, below=1)
        self.generators = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the projectors and the generators.

        Raises:
            ValueError: A teacher's feature is no map.
        """
        made = bool(self.pairs)
        super().build(student, teacher)
        if not made:
            for _, name in self.pairs:
                need_maps("MGD", teacher.features[name])
                width = teacher.features[name].shape[1]
                self.generators.append(
                    nn.Sequential(
                        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
                    )
                )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        pairs = self.pair_features(student, teacher)
        for (feature_s, feature_t), generator in zip(pairs, self.generators, strict=True):
            seen = feature_s * random_mask(feature_s, self.masked, self.ratio) if self.training else feature_s
            values.append(mgd(in_own_type(generator, seen), feature_t))
        return torch.stack(values).sum()
