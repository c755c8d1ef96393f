"""NKD: normalized knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.labelled import (
    check_three_classes,
    label_index,
    labelled_rows,
    mean_of_labelled,
    other_classes,
)
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_share, check_temperature


def nkd(student: Tensor, teacher: Tensor, target: Tensor, gamma: float = 1.5, temperature: float = 1.0) -> Tensor:
    r"""Return the normalized distillation loss ([Yang et al. 2023](https://arxiv.org/abs/2303.13005)).

    $$ \tfrac1N \sum_n -p^t_y \log p^s_y - \gamma T^2 \sum_{c \neq y} \hat p^t_c \log \hat p^s_c $$

    $p$ is the softmax at T = 1; $\hat p$ is the softmax of z / T over the classes other than the label's, so that both
    networks' sum to 1. The paper adds the labels' cross-entropy: that is ``hard_target``.

    Args:
        student: Logits ``[N, C]`` with 3 classes or more, in float32 or wider.
        teacher: Logits, the same shape.
        target: Class indices ``[N]``; rows of -100 are left out, and the value is 0 if none is left.
        gamma: The weight of the other classes.
        temperature: ``T`` above 0, of the other classes.

    Raises:
        ValueError: The shapes differ, or there are fewer than 3 classes.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
        >>> nkd(student, teacher, torch.tensor([0]))
        tensor(2.1849)
    """
    check_three_classes(student, teacher, "NKD")
    label = label_index(target)
    sure = F.log_softmax(teacher, dim=1).gather(1, label).squeeze(1).exp()
    own = -sure * F.log_softmax(student, dim=1).gather(1, label).squeeze(1)
    p_t = F.softmax(other_classes(teacher, target) / temperature, dim=1)
    log_s = F.log_softmax(other_classes(student, target) / temperature, dim=1)
    others = -(p_t * log_s).sum(1)
    return mean_of_labelled(own + gamma * temperature**2 * others, target)


class NKD(Criterion):
    r"""Cross-entropy with the teacher's probability of the label, and with its distribution over the other classes.

    $$ -p^t_y \log p^s_y - \gamma T^2 \sum_{c \neq y} \hat p^t_c \log \hat p^s_c $$
    ([Yang et al. 2023](https://arxiv.org/abs/2303.13005)), see ``nkd``.

    Use it at weight 1 next to ``HardTarget`` at weight 1. The authors' code: gamma 1.5 at T 1 on ImageNet (1 for DeiT);
    3.5 at T 3 for ResNet-34 to 18 on CIFAR-100. Both terms are cross-entropies: the value at the teacher's own logits is
    not 0, and the first term keeps falling once the student is surer of the label than the teacher. Only the second
    has a temperature. Class probabilities as labels (after MixUp) count as their likeliest class, as in the authors' code.

    Args:
        gamma: The weight of the classes other than the label's, at least 0.
        temperature: The softmax temperature, above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, untried here).

    Raises:
        ValueError: An argument is out of range; in use: fewer than 3 classes.

    Examples:
        >>> student, teacher = Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]]))
        >>> NKD(gamma=1.0)(student, teacher, torch.tensor([0]))
        tensor(1.8525)
    """

    citation = Citation(
        "NKD",
        'Yang, Zeng, Li, Zhang, Yuan and Li 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified '
        'Approach with Normalized Loss and Customized Soft Labels", ICCV',
        weight=1.0,
        url="https://arxiv.org/abs/2303.13005",
    )
    needs_target = True
    compares_logits = True
    task: Task = "multiclass"

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.gamma = check_share("gamma", gamma)
        self.temperature: float = check_temperature(temperature)
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = labelled_rows(student, teacher, target, self.standardize)
        return nkd(*rows, self.gamma, self.temperature)
