"""RLD: refined logit distillation."""

from __future__ import annotations

from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.divergence import kl_divergence, softmax_kl
from lit_distill.criteria.ops.labelled import (
    check_three_classes,
    label_index,
    labelled_rows,
    mean_of_labelled,
    target_and_rest,
)
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperature


def rld(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> Tensor:
    r"""Return the refined logit distillation loss ([Sun et al. 2024](https://arxiv.org/abs/2408.07703)).

    $$ \tfrac1N \sum_n \alpha T_c^2\,\mathrm{KL}([\max p^t, 1 - \max p^t] \| [p^s_y, 1 - p^s_y])
    + \beta T^2\,\mathrm{KL}(\hat p^t \| \hat p^s) $$

    The first term, SCD, asks the student to be as sure of the label as the teacher is of its likeliest class; its softmax has
    its own temperature $T_c$. The second, MCD, compares $\hat p$, the softmax of z / T over the classes that the
    teacher ranks below the label: the label and the classes that it finds as likely or likelier are left out. MCD is 0 if
    fewer than 2 classes are left. If the teacher is right and the temperatures agree, the value is ``dkd``.

    Args:
        student: Logits ``[N, C]`` with 3 classes or more, in float32 or wider.
        teacher: Logits, the same shape.
        target: Class indices ``[N]``; rows of -100 are left out, and the value is 0 if none is left.
        alpha: The weight of SCD.
        beta: The weight of MCD.
        temperature: ``T`` above 0, of MCD.
        confidence_temperature: ``T_c`` above 0, of SCD.

    Raises:
        ValueError: The shapes differ, or there are fewer than 3 classes.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0, 1.0]]), torch.tensor([[2.0, 3.0, 0.0, 1.0]])
        >>> rld(student, teacher, torch.tensor([0]))  # the teacher is wrong: class 1 is left out
        tensor(0.4742)
    """
    check_three_classes(student, teacher, "RLD")
    sure = target_and_rest(teacher / confidence_temperature, teacher.argmax(1))
    scd = kl_divergence(sure, target_and_rest(student / confidence_temperature, target))
    left_out = teacher >= teacher.gather(1, label_index(target))
    mcd = softmax_kl(student / temperature, teacher / temperature, ~left_out)
    losses = alpha * confidence_temperature**2 * scd + beta * temperature**2 * mcd
    return mean_of_labelled(losses, target)


class RLD(Criterion):
    r"""Decoupled distillation that a wrong teacher does not mislead: the label decides which parts of it to trust.

    $$ \alpha\,\mathrm{SCD} + \beta\,\mathrm{MCD} $$ ([Sun et al. 2024](https://arxiv.org/abs/2408.07703)), see ``rld``.

    Use it next to ``HardTarget`` at weight 1, with the warm-up of ``DKD``. The authors' code: alpha 1, beta 8, T 4 and T_c
    1 on CIFAR-100; beta 0.5 and T 1 on ImageNet; with ``standardize`` both temperatures are 2. It helps most if the teacher
    is often wrong on the training views. At the teacher's own logits it is 0 only if the teacher is right. Class
    probabilities as labels (after MixUp) count as their likeliest class.

    Args:
        alpha: The weight of the confidence in the label, at least 0.
        beta: The weight of the classes below the label's, at least 0.
        temperature: The temperature for the classes below the label's, above 0.
        confidence_temperature: The temperature for the confidence in the label, above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, CVPR).

    Raises:
        ValueError: An argument is out of range; in use: fewer than 3 classes.

    Examples:
        >>> student, teacher = Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> RLD(temperature=2.0)(student, teacher, torch.tensor([0]))
        tensor(1.6928)
    """

    citation = Citation(
        "RLD",
        'Sun, Chen, Lyu, Chen, Chen and Wang 2024, "Knowledge Distillation with Refined Logits", ICCV 2025',
        weight=1.0,
        url="https://arxiv.org/abs/2408.07703",
    )
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        confidence_temperature: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.beta = check_shares({"alpha": alpha, "beta": beta})
        self.temperature: float = check_temperature(temperature)
        self.confidence_temperature = check_temperature(confidence_temperature, "confidence_temperature")
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = labelled_rows(student, teacher, target, self.standardize)
        return rld(*rows, self.alpha, self.beta, self.temperature, self.confidence_temperature)
