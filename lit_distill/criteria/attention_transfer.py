"""Attention transfer: Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", section 3.1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.criteria.ops.normalisation import unit_length
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number
from lit_distill.utils.grids import resize_map


def attention_map(feature: Tensor, p: float = 2.0) -> Tensor:
    """``Q = vec(mean_c |F_c|^p)``, divided by its L2 norm: where the network looks, as a unit vector.

    It is exact at any scale; a map of zeros stays zero, and its gradient there is 0 for ``p`` above 1.

    Args:
        feature: A map ``[B, C, H, W]`` or tokens ``[B, N, D]``.
        p: The power, 1 or more.

    Returns:
        ``[B, H * W]`` or ``[B, N]``.
    """
    attention = feature.abs().pow(p).mean(1 if feature.dim() > 3 else -1)
    return unit_length(attention.flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor, p: float = 2.0, mask: Tensor | None = None) -> Tensor:
    """``mean (Q_s - Q_t)²`` over batch and positions, as in the authors' code.

    The paper's equation 2 takes the norm of the difference in place of the mean square. The mean over
    positions makes a weight depend on the resolution. Where two maps differ in size, the larger is
    average-pooled.

    Args:
        student: ``[B, C, H, W]`` or ``[B, N, D]``; channels need not match.
        teacher: The same kind of feature.
        p: The power, 1 or more.
        mask: True at the positions that count, ``[B, N]`` or ``[B, H, W]``; the others are nobody's attention.

    Raises:
        ValueError: One is a map and the other tokens, or the tokens differ in number.
    """
    if student.dim() == teacher.dim() > 3:
        size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        student, teacher = resize_map(student, size), resize_map(teacher, size)
    elif student.dim() != teacher.dim() or student.dim() != 3 or student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"attention maps of {list(student.shape)} and {list(teacher.shape)} cannot be compared; give two maps "
            "[B, C, H, W], or tokens [B, N, D] of one N."
        )
    own = position_mask(mask, student)
    if own is None:
        return F.mse_loss(attention_map(student, p), attention_map(teacher, p))
    keep = own.unsqueeze(1 if student.dim() > 3 else -1)
    map_s, map_t = (attention_map(feature.masked_fill(~keep, 0), p) for feature in (student, teacher))
    return (map_s - map_t).square().sum() / own.sum().clamp(min=1)


class AttentionTransfer(FeatureCriterion):
    """The student's spatial attention against the teacher's; the sum over pairs, as in the paper.

    It has no parameters. The authors' weight is 1,000 (beta / 2 with beta = 1e3 over their sum).

    Args:
        student_layer: A layer reference, a glob or a list of them; feature maps or tokens.
        teacher_layer: The teacher's layers, as many.
        p: The power of the activations; 2 in the paper.

    Raises:
        ValueError: ``p`` is below 1 or not finite.
    """

    about = About("AT", 'Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", ICLR', weight=1000)

    def __init__(self, student_layer: str | list[str], teacher_layer: str | list[str], p: float = 2.0) -> None:
        super().__init__(student_layer, teacher_layer)
        self.p = check_number("p", p, least=1)  # below 1 the gradient at a unit that is off is not finite

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [attention_transfer(s, t, self.p, student.mask) for s, t in pairs]
        return torch.stack(values).sum()
