"""DIST: relations among predictions, for stronger teachers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.rows import check_same_classes, paired_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperature

_LEAST = 0.05  # of a row's own length: for the gradient, at least this much of it varies
_ROUNDING = 8.0  # smaller differences, in units of rounding, count as 0


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return Pearson's correlation of each row of the student's and the teacher's matrix: ``[N, M]`` to ``[N]``.

    It is exact at any scale: 1 if the two are equal, even with entries as small as the probabilities of 21,000 classes. The
    authors add 1e-8 to the product of the two norms, which is not small compared with that product if there are many classes.
    Measured on random logits of deviation 1 to 6: at 10 classes and 32 samples their value is within 1e-7 of this one; at 100
    classes within 3e-4; at 1,000 up to 0.1 off, and 0.26 if the student equals the teacher; at 21,000 up to 0.3 and 0.8.

    A row whose entries are equal to rounding has no correlation: two such rows count as 1, one such row as 0. A student's
    row of nearly equal entries, as of a head that starts at zero, is divided by at least 0.05 of its own length before
    centring (or of the teacher's after, if that is less), instead of its vanishing norm, so that the gradient is bounded.
    """
    x, y, ratio = _scaled(x, y)
    centred_x, flat_x = _centred(x)
    centred_y, flat_y = _centred(y)
    # Sums of the same kind as the product's, so that they round alike at equality.
    square_x, square_y = (centred.square().sum(1) for centred in (centred_x, centred_y))
    least = _LEAST**2 * torch.minimum(x.square().sum(1), square_y * ratio.square()).detach()
    least = torch.where(least > 0, least, torch.where(square_x > 0, 0, 1))
    lengths = torch.where(square_x >= least, square_x, least).sqrt() * torch.where(square_y > 0, square_y, 1).sqrt()
    return (centred_x * centred_y).sum(1) / lengths + (flat_x & flat_y)


def _scaled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale rows to a largest entry of 1, so that no square underflows; also return the factor from y's scale to x's."""
    scales = []
    for rows in (x, y):
        largest = rows.detach().abs().amax(1)
        scales.append(torch.where(largest > 0, largest, 1))
    return x / scales[0].unsqueeze(1), y / scales[1].unsqueeze(1), scales[1] / scales[0]


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the mean of each row, with exact zeros if its entries are equal to rounding; also return which rows are."""
    centred = rows - rows.mean(1, keepdim=True)
    alike = rows.amax(1) - rows.amin(1) <= _ROUNDING * torch.finfo(rows.dtype).eps * rows.abs().amax(1)
    return torch.where(alike.unsqueeze(1), centred - centred.detach(), centred), alike


def dist(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0) -> Tensor:
    r"""Return the DIST loss ([Huang et al. 2022](https://arxiv.org/abs/2205.10536)).

    $$ \tau^2 \Bigl[\beta \bigl(1 - \tfrac1N \sum_n \rho(p^s_{n\cdot}, p^t_{n\cdot})\bigr)
    + \gamma \bigl(1 - \tfrac1C \sum_c \rho(p^s_{\cdot c}, p^t_{\cdot c})\bigr)\Bigr], \quad p = \mathrm{softmax}(z / \tau) $$

    $\rho$ is Pearson's correlation: first of each sample's classes (inter-class), then of each class over the batch (intra).

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teacher: Logits, the same shape.
        beta: The weight of the relation between classes.
        gamma: The weight of the relation within a class.
        tau: The temperature, above 0.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> student = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]])
        >>> dist(student, torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]))
        tensor(1.2558)
    """
    need_classes(student)
    check_same_classes(student, teacher)
    if not len(student):
        return student.sum()  # no position counts: 0, with a gradient of 0
    p_s, p_t = F.softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1)
    inter = (1 - pearson(p_s, p_t)).mean()  # a mean of small numbers is more exact than a difference of means
    intra = (1 - pearson(p_s.t(), p_t.t())).mean()
    return tau**2 * (beta * inter + gamma * intra)


class DIST(Criterion):
    r"""Correlations of the predictions instead of the predictions: what a stronger teacher predicts, not how surely.

    $$ \tau^2 (\beta \cdot \text{inter-class} + \gamma \cdot \text{intra-class}) $$
    ([Huang et al. 2022](https://arxiv.org/abs/2205.10536)), see ``dist``.

    Use it next to ``HardTarget`` at weight 1; it reads no labels. The authors' code has 1 and 1 at τ 1, and its ImageNet
    recipes multiply the sum by 2, which is the weight here. Others use τ 4 on CIFAR-100.

    The second relation runs over the batch: in a batch of one it is 0, without a gradient, and below some 32 samples it is
    noise; with several processes, each has its own. Every token or pixel that counts is a sample of its own, as in the
    authors' code for segmentation. A confident student's gradient vanishes as its softmax saturates.

    Args:
        beta: The weight of the relation between classes, at least 0.
        gamma: The weight of the relation within a class, at least 0.
        tau: The temperature, above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024).

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> student = Outputs(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]]))
        >>> DIST(tau=4.0)(student, Outputs(torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]])))
        tensor(17.2702)
    """

    citation = Citation(
        "DIST",
        'Huang, You, Wang, Qian and Xu 2022, "Knowledge Distillation from A Stronger Teacher", NeurIPS',
        weight=2.0,
        url="https://arxiv.org/abs/2205.10536",
    )
    compares_logits = True
    task: Task = "multiclass"

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.beta, self.gamma = check_shares({"beta": beta, "gamma": gamma})
        self.tau = check_temperature(tau, "tau")
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows = paired_rows(student, teacher, self.standardize)
        return dist(*rows, self.beta, self.gamma, self.tau)
