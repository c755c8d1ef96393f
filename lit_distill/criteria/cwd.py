"""Channel-wise distillation: Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", section 3."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, FeatureCriterion, at_least_float32, check_same_classes
from lit_distill.criteria.ops.softmax_kl import softmax_kl
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_temperature

_PAPER = 'Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV'


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0, mask: Tensor | None = None) -> Tensor:
    """``T² / C sum_c KL(phi(t_c) || phi(s_c))``, mean over the batch; ``phi`` is the softmax over a channel's positions.

    Equations 2 to 4: where each channel is active, not how strongly.

    Args:
        student: A map ``[B, C, H, W]``, or tokens ``[B, N, C]``.
        teacher: The same shape.
        temperature: T above 0.
        mask: True at the positions that count, ``[B, H, W]`` or ``[B, N]``; the softmax runs over those alone.

    Raises:
        ValueError: The shapes differ, or there are no positions.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {list(student.shape)} does not match teacher {list(teacher.shape)}.")
    if student.dim() < 3:
        raise ValueError(f"{list(student.shape)} has no positions; give a map [B, C, H, W] or tokens [B, N, C].")
    channels_s, channels_t = (x.flatten(2) if x.dim() > 3 else x.mT for x in (student, teacher))
    counted = None if mask is None else mask.bool().flatten(1).unsqueeze(1)
    return temperature**2 * softmax_kl(channels_s / temperature, channels_t / temperature, counted).mean()


class CWD(FeatureCriterion):
    """Each channel of the student's feature is active where the teacher's is; the mean over pairs of layers.

    The student's feature is brought to the teacher's shape first, by a 1x1 convolution where the channels differ, as in
    the paper (its parameters are trained, and gone from the student). The authors use T = 4 and a weight of 50 for
    features; Open-MMLab's configs T = 1, and 10 for the feature pyramid of a detector. The value does not depend on
    the resolution. One position a channel, as after pooling, gives 0: name a layer before it.

    Args:
        student_layer: A layer reference, a glob or a list of them; feature maps or tokens.
        teacher_layer: The teacher's layers, as many.
        temperature: Above 0.

    Raises:
        ValueError: The temperature is not above 0.
    """

    about = About("CWD", _PAPER, weight=50)

    def __init__(
        self, student_layer: str | list[str], teacher_layer: str | list[str], temperature: float = 4.0
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True)
        self.temperature = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [cwd(s, t, self.temperature, position_mask(student.mask, s)) for s, t in pairs]
        return torch.stack(values).mean()


class CWDLogits(Criterion):
    """Each class's score map peaks where the teacher's does: ``CWD`` of dense logits ``[B, C, H, W]``, without parameters.

    The authors use T = 4 and a weight of 3; Open-MMLab's configs T = 1 and 5. Where the batch has a mask of the pixels,
    the softmax runs over those that count, which the paper has no need of. For sequences ``[B, T, C]``, the positions
    are the tokens.

    Args:
        temperature: Above 0.

    Raises:
        ValueError: The temperature is not above 0.
    """

    about = About("CWD of logits", _PAPER, weight=3)
    compares_logits = True

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        logits_s, logits_t = at_least_float32(student.logits), at_least_float32(teacher.logits)
        return cwd(logits_s, logits_t, self.temperature, student.mask)
