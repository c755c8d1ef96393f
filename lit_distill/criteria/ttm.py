"""TTM: transformed teacher matching, plain and weighted."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.labels import Task, need_classes
from lit_distill.criteria.base import Citation, Criterion
from lit_distill.criteria.ops.chunked import mean_over_rows
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.ops.rows import wide_rows
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_flag, check_number

_PAPER = 'Zheng and Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR'
_URL = "https://arxiv.org/abs/2402.11148"


def ttm(
    student: Tensor,
    teacher: Tensor,
    gamma: float = 0.1,
    weighted: bool = False,
    mask: Tensor | None = None,
    standardize: bool = False,
) -> Tensor:
    r"""Return the transformed teacher matching loss, TTM or WTTM ([Zheng and Yang 2024](https://arxiv.org/abs/2402.11148)).

    $$ \tfrac1N \sum_n U_n^w\,\mathrm{KL}(q_n \| p^s_n), \quad q = (p^t)^\gamma / U, \quad U = \sum_c (p^t_c)^\gamma $$

    $w$ is 1 if ``weighted``, else 0. The power transform is a temperature of ``1 / gamma`` on the teacher only: the student's
    is 1, so there is no T² to compensate for. ``U`` ranges from 1 (a teacher that is certain) to ``C^(1 - gamma)`` (one that
    knows nothing): the weighted form emphasizes the samples on which the teacher is unsure.

    Args:
        student: Logits ``[N, C]``, ``[B, T, C]`` or ``[B, C, H, W]``.
        teacher: Logits, the same shape.
        gamma: The exponent, in (0, 1].
        weighted: Whether to multiply each row by its ``U``; the authors use gamma 0.2 then.
        mask: True at the rows that count: ``[N]``, ``[B, T]`` or ``[B, H, W]``; all if None.
        standardize: Whether to standardize each row of both first.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
        >>> ttm(student, teacher), ttm(student, teacher, gamma=0.2, weighted=True)
        (tensor(0.2865), tensor(0.6146))
    """
    need_classes(student)

    def loss(some_s: Tensor, some_t: Tensor) -> Tensor:
        rows_s, rows_t = wide_rows(some_s, some_t, standardize)
        powers = gamma * F.log_softmax(rows_t, dim=-1)
        divergence = softmax_kl(rows_s, powers)
        return powers.logsumexp(-1).exp() * divergence if weighted else divergence

    return mean_over_rows(loss, student, teacher, mask)


class TTM(Criterion):
    r"""A teacher softened by a power, and a student that is not softened.

    $$ \mathrm{KL}(q \| p^s), \quad q = (p^t)^\gamma / U $$
    ([Zheng and Yang 2024](https://arxiv.org/abs/2402.11148)), see ``ttm``.

    Use it next to ``HardTarget`` at weight 1. For VGG-13 to VGG-8 on CIFAR-100 the authors have gamma 0.1 and weight 45;
    as the student has no temperature, its gradient is ``p_s - q`` and the weight takes the place of T². It reads no labels.

    Args:
        gamma: The exponent of the teacher's probabilities, in (0, 1]: a temperature of ``1 / gamma``.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, untried here).

    Raises:
        ValueError: ``gamma`` is out of range.

    Examples:
        >>> TTM()(Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]])))
        tensor(0.2865)
    """

    citation = Citation("TTM", _PAPER, weight=45.0, url=_URL)
    compares_logits = True
    minimum_at_teacher = False  # the teacher's distribution is softened, the student's is not
    task: Task = "multiclass"
    weighted: bool = False

    def __init__(self, gamma: float = 0.1, standardize: bool = False) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, above=0, most=1)
        self.standardize = check_flag("standardize", standardize)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        logits, mask = (student.logits, teacher.logits), student.logit_mask
        return ttm(*logits, self.gamma, self.weighted, mask, self.standardize)


class WTTM(TTM):
    r"""TTM that gives more weight to the samples on which the teacher is unsure.

    $$ U\,\mathrm{KL}(q \| p^s), \quad U = \textstyle\sum_c (p^t_c)^\gamma $$
    ([Zheng and Yang 2024](https://arxiv.org/abs/2402.11148)), see ``ttm``.

    Use it next to ``HardTarget`` at weight 1. For VGG-13 to VGG-8 on CIFAR-100 the authors have gamma 0.2 and weight 4
    (with CRD); ``U`` can be near 40 with 100 classes, so a weight does not carry over to another number of them.

    Args:
        gamma: The exponent of the teacher's probabilities, in (0, 1]: a temperature of ``1 / gamma``.
        standardize: Whether to standardize each row of both networks' logits first (Sun et al. 2024, untried here).

    Raises:
        ValueError: ``gamma`` is out of range.

    Examples:
        >>> WTTM()(Outputs(torch.tensor([[1.0, 2.0, 0.0]])), Outputs(torch.tensor([[3.0, 1.0, 0.0]])))
        tensor(0.6146)
    """

    citation = Citation("WTTM", _PAPER, weight=4.0, url=_URL)
    weighted = True

    def __init__(self, gamma: float = 0.2, standardize: bool = False) -> None:
        super().__init__(gamma, standardize)
