"""DIST: Huang, You, Wang, Qian and Xu 2022, "Knowledge Distillation from A Stronger Teacher", NeurIPS."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, paired_rows
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_shares, check_temperature

_LEAST = 0.05  # of a row's own length: how much of it varies at least, as far as the gradient is concerned
_ROUNDING = 8.0  # differences of so many roundings are none


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of each row of two matrices: ``[N, M]`` to ``[N]``.

    It is exact at any scale: 1 where the two are equal, be their entries as small as the probabilities of 21,000 classes. The
    authors add 1e-8 to the product of the two norms, which is not small beside that product where there are many classes.
    Measured on random logits of deviation 1 to 6: at 10 classes and 32 samples their value is within 1e-7 of this one; at 100
    classes within 3e-4; at 1,000 up to 0.1, and 0.26 where the student equals the teacher; at 21,000 up to 0.3 and 0.8.

    A row that is all alike to rounding has no correlation. Two such rows count as 1, there being nothing to tell, and one
    beside another as 0. A student's row of nearly equal entries, as of a head that starts at zero, is divided by no less than
    0.05 of its own length before centring (or of the teacher's after, if that is less), in place of its vanishing norm: it
    learns to vary as the teacher's does, by a gradient that is bounded.

    Args:
        x: The student's, in float32 or wider.
        y: The teacher's.
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
    """Both with rows whose largest entry is 1, so that no square underflows, and the factor from ``y``'s scale to ``x``'s."""
    scales = []
    for rows in (x, y):
        largest = rows.detach().abs().amax(1)
        scales.append(torch.where(largest > 0, largest, 1))
    return x / scales[0].unsqueeze(1), y / scales[1].unsqueeze(1), scales[1] / scales[0]


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows minus their mean, exact zeros where all are alike to rounding, and which are."""
    centred = rows - rows.mean(1, keepdim=True)
    alike = rows.amax(1) - rows.amin(1) <= _ROUNDING * torch.finfo(rows.dtype).eps * rows.abs().amax(1)
    return torch.where(alike.unsqueeze(1), centred - centred.detach(), centred), alike


def dist(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0) -> Tensor:
    """``τ² (beta · inter + gamma · intra)`` of ``p = softmax(z / τ)``.

    ``inter = 1 - mean_n ρ(p_s[n, :], p_t[n, :])``: the inter-class relation, of each sample's classes;
    ``intra = 1 - mean_c ρ(p_s[:, c], p_t[:, c])``: the intra-class relation, of each class's
    probabilities over the batch.

    Args:
        student: Logits ``[N, C]``, in float32 or wider.
        teacher: Logits, the same shape.
        beta: The weight of the relation between classes.
        gamma: The weight of the relation within a class.
        tau: The temperature, above 0.
    """
    need_classes(student)
    if not len(student):
        return student.sum()  # no position counts: 0, with a gradient of 0
    p_s, p_t = F.softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1)
    inter = (1 - pearson(p_s, p_t)).mean()  # a mean of small numbers is exacter than a difference of means
    intra = (1 - pearson(p_s.t(), p_t.t())).mean()
    return tau**2 * (beta * inter + gamma * intra)


class DIST(Criterion):
    """Correlations of the predictions in place of the predictions: what a stronger teacher says, but not how surely.

    Beside ``HardTarget`` at weight 1. The two weights inside are the paper's; its code has 1 and 1 at τ 1, and
    the ImageNet recipes multiply the sum by 2, which is the weight here (or beta = gamma = 2 at weight 1). τ 4 is what
    others use on CIFAR-100. No labels are read.

    The second relation is one over the batch: in a batch of one it is 0, without a gradient, and below some 32 samples it is
    noise; each process has its own where there are several. Of tokens and pixels each that counts is a sample of its own, as in
    the authors' code for segmentation. A confident student's gradient vanishes as its softmax saturates.

    Nothing is trained beside the student, and the cost is that of two softmaxes.

    Args:
        beta: The weight of the relation between classes, at least 0.
        gamma: The weight of the relation within a class, at least 0.
        tau: The temperature, above 0.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024). The first
            relation is one of probabilities, and not of logits, so it changes the value.

    Raises:
        ValueError: An argument is out of range.
    """

    about = About(
        "DIST",
        'Huang, You, Wang, Qian and Xu 2022, "Knowledge Distillation from A Stronger Teacher", NeurIPS',
        weight=2.0,
    )
    compares_logits = True
    task: Task = "multiclass"

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, standardize: bool = False) -> None:
        super().__init__()
        self.beta, self.gamma = check_shares({"beta": beta, "gamma": gamma})
        self.tau = check_temperature(tau, "tau")
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        rows_s, rows_t = paired_rows(student, teacher)
        if self.standardize:
            rows_s, rows_t = standardized(rows_s), standardized(rows_t)
        return dist(rows_s, rows_t, self.beta, self.gamma, self.tau)
