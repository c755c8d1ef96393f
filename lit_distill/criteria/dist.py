"""DIST: Huang, You, Wang, Qian and Xu 2022, "Knowledge Distillation from A Stronger Teacher", NeurIPS."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.arguments import check_flag, check_shares, check_temperature
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, paired_rows
from lit_distill.criteria.standardization import standardize as standardized
from lit_distill.labels import Task, need_classes
from lit_distill.outputs import Outputs

_EPSILON = 1e-8  # the authors'


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of each row of two matrices: ``[N, M]`` to ``[N]``.

    As in the authors' code, 1e-8 is added to the product of the norms, so that it is a little below 1 at equality. It
    is 0 where a row of ``x`` or ``y`` is all alike; such a row gets no gradient, where the formula's would be 1e8 times its
    usual size.

    Args:
        x: The student's, in float32 or wider.
        y: The teacher's.
    """
    x, y = _centred(x), _centred(y)
    correlation: Tensor = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + _EPSILON)
    return correlation


def _centred(rows: Tensor) -> Tensor:
    alike = rows.amax(1, keepdim=True) == rows.amin(1, keepdim=True)
    return (rows - rows.mean(1, keepdim=True)).masked_fill(alike, 0)


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
    p_s, p_t = F.softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1)
    inter = 1 - pearson(p_s, p_t).mean()
    intra = 1 - pearson(p_s.t(), p_t.t()).mean()
    return tau**2 * (beta * inter + gamma * intra)


class DIST(Criterion):
    """Correlations of the predictions in place of the predictions: what a stronger teacher says, but not how surely.

    Beside ``HardTarget`` at weight 1. The two weights inside are the paper's; its code has 1 and 1 at τ 1, and
    the ImageNet recipes multiply the sum by 2, which is the weight here (or beta = gamma = 2 at weight 1). τ 4 is what
    others use on CIFAR-100. No labels are read.

    The second relation is one over the batch: in a batch of one it is constant, and below some 32 samples it is noise;
    each process has its own where there are several. Of tokens and pixels each that counts is a sample of its own, as in
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
