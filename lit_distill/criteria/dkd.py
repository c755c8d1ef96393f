"""DKD: decoupled knowledge distillation."""

from __future__ import annotations

from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.divergence import kl_divergence, softmax_kl
from lit_distill.criteria.ops.labelled import (
    check_three_classes,
    labelled_rows,
    mean_of_labelled,
    other_classes,
    target_and_rest,
)
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperature


def dkd(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    r"""Return the decoupled distillation loss ([Zhao et al. 2022](https://arxiv.org/abs/2203.08679), section 3.3).

    $$ T^2 \tfrac1N \sum_n \alpha\,\mathrm{KL}(b^t \| b^s) + \beta\,\mathrm{KL}(\hat p^t \| \hat p^s) $$

    The first term, TCKD, compares $b = [p_y, 1 - p_y]$: the label's class against the rest. The second, NCKD, compares
    $\hat p$, the softmax over the other classes. ``soft_target`` is TCKD + (1 - p_y of the teacher) NCKD (section 3.1).

    Args:
        student: Logits ``[N, C]`` with 3 classes or more, in float32 or wider.
        teacher: Logits, the same shape.
        target: Class indices ``[N]``; rows of -100 are left out, and the value is 0 if none is left.
        alpha: The weight of TCKD.
        beta: The weight of NCKD.
        temperature: ``T`` above 0.

    Raises:
        ValueError: The shapes differ, or there are fewer than 3 classes.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
        >>> dkd(student, teacher, torch.tensor([0]))
        tensor(1.7901)
    """
    check_three_classes(student, teacher, "DKD")
    student, teacher = student / temperature, teacher / temperature
    tckd = kl_divergence(target_and_rest(teacher, target), target_and_rest(student, target))
    nckd = softmax_kl(other_classes(student, target), other_classes(teacher, target))
    return temperature**2 * mean_of_labelled(alpha * tckd + beta * nckd, target)


class DKD(Criterion):
    r"""Soft targets in two parts: the label's class against the rest, and the rest among each other.

    $$ \alpha\,\mathrm{TCKD} + \beta\,\mathrm{NCKD} $$ ([Zhao et al. 2022](https://arxiv.org/abs/2203.08679)), see ``dkd``.

    Use it next to ``HardTarget`` at weight 1, with a linear warm-up over the first 20 of 240 epochs (1 of 100 on ImageNet)::

        schedules:
          dkd.weight: {class_path: lit_distill.schedules.Linear, init_args: {start: 0, end: 1, until: 20}}

    The authors' code: alpha 1, T 4 and beta 8 on CIFAR-100 (6 for WRN and VGG pairs, 2 for ResNet-56 or -110 to 20); T 1
    and beta 0.5 (ResNet-34 to 18) or 2 (ResNet-50 to MobileNet) on ImageNet. Lower ``beta`` as the gap between
    the two networks shrinks. That code takes the logarithm of a softmax, which is NaN if two logits are some 100 apart;
    here the value stays finite. Class probabilities as labels (after MixUp) count as their likeliest class.

    Args:
        alpha: The weight of the label's class against the rest (TCKD), at least 0.
        beta: The weight of the other classes among each other (NCKD), at least 0.
        temperature: The temperature of both networks' softmax, above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, with T 2).

    Raises:
        ValueError: An argument is out of range; in use: fewer than 3 classes, as NCKD is 0 with 2.

    Examples:
        >>> student, teacher = Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> DKD(beta=2.0)(student, teacher, torch.tensor([0]))
        tensor(1.0611)
    """

    citation = Citation(
        "DKD",
        'Zhao, Cui, Song, Qiu and Liang 2022, "Decoupled Knowledge Distillation", CVPR',
        weight=1.0,
        url="https://arxiv.org/abs/2203.08679",
    )
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardize: bool = False
    ) -> None:
        super().__init__()
        self.alpha, self.beta = check_shares({"alpha": alpha, "beta": beta})
        self.temperature: float = check_temperature(temperature)
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = labelled_rows(student, teacher, target, self.standardize)
        return dkd(*rows, self.alpha, self.beta, self.temperature)
