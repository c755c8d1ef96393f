"""Attention transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.features import at_common_size, unit_length
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number


def attention_map(feature: Tensor, p: float = 2.0) -> Tensor:
    """Return ``vec(mean_c |F_c|^p)`` of a map or tokens as a unit vector, ``[B, H * W]`` or ``[B, N]``.

    It is exact at any scale; a map of zeros stays zero, and its gradient there is 0 for ``p`` above 1.
    """
    attention = feature.abs().pow(p).mean(1 if feature.dim() > 3 else -1)
    return unit_length(attention.flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor, p: float = 2.0, mask: Tensor | None = None) -> Tensor:
    r"""Return the attention transfer loss ([Zagoruyko and Komodakis 2017](https://arxiv.org/abs/1612.03928), section 3.1).

    $$ \mathrm{mean}\,(Q^s - Q^t)^2, \quad Q = \mathrm{vec}(A) / \|\mathrm{vec}(A)\|_2, \quad A = \tfrac1C\sum_c |F_c|^p $$

    The mean over batch and positions is that of the authors' code; the paper's equation 2 takes the norm of the difference
    instead. So a weight depends on the resolution. If two maps differ in size, the larger is average-pooled.

    Args:
        student: ``[B, C, H, W]`` or ``[B, N, D]``; channels need not match.
        teacher: The same kind of feature, or a map for tokens of a grid, and the reverse.
        p: The power, 1 or more.
        mask: True at the positions that count, ``[B, N]`` or ``[B, H, W]``; the others get no attention.

    Raises:
        ValueError: A feature is a vector, the tokens differ in number, or tokens that meet a map are no square grid.

    Examples:
        >>> student, teacher = torch.tensor([[[1.0], [1.0], [0.0]]]), torch.tensor([[[1.0], [0.0], [0.0]]])
        >>> attention_transfer(student, teacher)  # three tokens of width 1
        tensor(0.1953)
    """
    if min(student.dim(), teacher.dim()) < 3:
        raise ValueError(
            f"attention maps of {list(student.shape)} and {list(teacher.shape)} cannot be compared; give two maps "
            "[B, C, H, W], or tokens [B, N, D] of one N."
        )
    student, teacher = at_common_size(student, teacher)
    own = position_mask(mask, student)
    if own is None:
        return F.mse_loss(attention_map(student, p), attention_map(teacher, p))
    keep = own.unsqueeze(1 if student.dim() > 3 else -1)
    map_s, map_t = (attention_map(feature.masked_fill(~keep, 0), p) for feature in (student, teacher))
    return (map_s - map_t).square().sum() / own.sum().clamp(min=1)


class AttentionTransfer(FeatureCriterion):
    r"""The student's spatial attention against the teacher's; the sum over pairs of layers, as in the paper.

    $$ \sum_l \mathrm{mean}\,(Q^s_l - Q^t_l)^2 $$ ([Zagoruyko and Komodakis 2017](https://arxiv.org/abs/1612.03928)), see
    ``attention_transfer``. It has no parameters; the authors' weight is 1,000 (beta / 2 with beta = 1e3 over their sum).

    Args:
        student_layer: A layer reference, a glob or a list of them; feature maps or tokens; or ``auto``, the ends of
            the stages.
        teacher_layer: The teacher's layers, as many.
        p: The power of the activations; 2 in the paper.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: ``p`` is below 1 or not finite.

    Examples:
        >>> student = Outputs(torch.zeros(1, 2), {"layer1": torch.tensor([[[[1.0, 1.0]]]])})
        >>> teacher = Outputs(torch.zeros(1, 2), {"block1": torch.tensor([[[[1.0, 0.0]]]])})
        >>> AttentionTransfer("layer1", "block1")(student, teacher)
        tensor(0.2929)
    """

    makes_maps_if_unequal = True
    citation = Citation(
        "AT",
        'Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", ICLR',
        weight=1000,
        url="https://arxiv.org/abs/1612.03928",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        p: float = 2.0,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)
        self.p = check_number("p", p, least=1)  # below 1 the gradient at a unit that is off is not finite

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [attention_transfer(s, t, self.p, student.mask) for s, t in pairs]
        return torch.stack(values).sum()
