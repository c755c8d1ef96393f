"""CWD: channel-wise distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.base import Citation, Criterion, FeatureCriterion, at_least_float32
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.ops.rows import check_same_classes
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_temperature

_PAPER = 'Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV'
_URL = "https://arxiv.org/abs/2011.13256"


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0, mask: Tensor | None = None) -> Tensor:
    r"""Return the channel-wise distillation loss ([Shu et al. 2021](https://arxiv.org/abs/2011.13256), equations 2 to 4).

    $$ \frac{T^2}{B\,C} \sum_{b,c} \mathrm{KL}(\phi(t_{bc}) \| \phi(s_{bc})), \quad
    \phi(x) = \mathrm{softmax}_{\text{positions}}(x / T) $$

    Args:
        student: A map ``[B, C, H, W]``, or tokens ``[B, N, C]``.
        teacher: The same shape.
        temperature: T above 0.
        mask: True at the positions that count, ``[B, H, W]`` or ``[B, N]``; the softmax runs only over those.

    Raises:
        ValueError: The shapes differ, or there are no positions.

    Examples:
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
        >>> cwd(student, teacher, temperature=1.0)
        tensor(0.8287)
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {list(student.shape)} does not match teacher {list(teacher.shape)}.")
    if student.dim() < 3:
        raise ValueError(f"{list(student.shape)} has no positions; give a map [B, C, H, W] or tokens [B, N, C].")
    channels_s, channels_t = (x.flatten(2) if x.dim() > 3 else x.mT for x in (student, teacher))
    counted = None if mask is None else mask.bool().flatten(1).unsqueeze(1)
    return temperature**2 * softmax_kl(channels_s / temperature, channels_t / temperature, counted).mean()


class CWD(FeatureCriterion):
    r"""Each channel of the student's feature is active where the teacher's is; the mean over pairs of layers.

    $$ \frac{T^2}{B\,C} \sum_{b,c} \mathrm{KL}(\phi(t_{bc}) \| \phi(s_{bc})) $$
    ([Shu et al. 2021](https://arxiv.org/abs/2011.13256)), see ``cwd``.

    The student's feature is first brought to the teacher's shape, by a trained 1x1 convolution if the channels differ, as
    in the paper. The authors use T = 4 and a weight of 50 for features; Open-MMLab's configs use T = 1, and 10 for the
    feature pyramid of a detector. The value does not depend on the resolution. With one position per channel, as after
    pooling, it is 0: name an earlier layer.

    Args:
        student_layer: A layer reference, a glob or a list of them; feature maps or tokens; or ``auto``, the last
            stage's end.
        teacher_layer: The teacher's layers, as many.
        temperature: The softmax temperature, above 0.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: The temperature is not above 0.

    Examples:
        >>> student = Outputs(torch.zeros(1, 2), {"layer1": torch.tensor([[[[1.0, 0.0]]]])})
        >>> teacher = Outputs(torch.zeros(1, 2), {"block1": torch.tensor([[[[0.0, 2.0]]]])})
        >>> CWD("layer1", "block1")(student, teacher)
        tensor(1.0993)
    """

    citation = Citation("CWD", _PAPER, weight=50, url=_URL)
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        temperature: float = 4.0,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, project=True, pair=pair)
        self.temperature: float = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [cwd(s, t, self.temperature, position_mask(student.mask, s)) for s, t in pairs]
        return torch.stack(values).mean()


class CWDLogits(Criterion):
    r"""Each class's score map peaks where the teacher's does: ``CWD`` of dense logits ``[B, C, H, W]``.

    $$ \frac{T^2}{B\,C} \sum_{b,c} \mathrm{KL}(\phi(z^t_{bc}) \| \phi(z^s_{bc})) $$
    ([Shu et al. 2021](https://arxiv.org/abs/2011.13256)), see ``cwd``.

    The authors use T = 4 and a weight of 3; Open-MMLab's configs use T = 1 and 5. If the batch has a mask of the pixels,
    the softmax runs only over those that count. For sequences ``[B, T, C]``, the positions are the tokens.

    Args:
        temperature: The softmax temperature, above 0.

    Raises:
        ValueError: The temperature is not above 0.

    Examples:
        >>> student, teacher = Outputs(torch.tensor([[[[1.0, 0.0]]]])), Outputs(torch.tensor([[[[0.0, 2.0]]]]))
        >>> CWDLogits(temperature=1.0)(student, teacher)
        tensor(0.8287)
    """

    citation = Citation("CWD of logits", _PAPER, weight=3, url=_URL)
    compares_logits = True

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature: float = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        logits_s, logits_t = at_least_float32(student.logits), at_least_float32(teacher.logits)
        return cwd(logits_s, logits_t, self.temperature, student.mask)
