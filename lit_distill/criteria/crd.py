"""CRD: contrastive representation distillation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.labels import sample_classes
from lit_distill.criteria.base import Citation, FeatureCriterion, in_own_type
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.ops.features import pooled, unit_length
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_flag, check_temperature, check_whole

Objective = Literal["nce", "info_nce"]
OBJECTIVES: tuple[Objective, ...] = ("nce", "info_nce")


def contrast(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor,
    allowed: Tensor,
    temperature: float = 0.07,
    objective: Objective = "nce",
) -> Tensor:
    """Return the contrastive loss of anchors ``[B, D]`` with one positive each, ``[B, D]``; the mean over anchors.

    ``nce`` is the paper's (section 3.1): ``-log h(a, p) - sum_n log(1 - h(a, n))`` with ``h(a, x) = e / (e + N c)``,
    ``e = exp(a·x / temperature)`` and ``N`` the number of the anchor's negatives. The paper has ``N / M`` instead of
    ``N c``, with ``M`` the number of samples; its code first divides ``e`` by a constant, found in the first batch against
    a bank of random vectors, after which ``M`` cancels and ``c`` is the mean of ``e`` over random unit vectors. Here that
    mean is in closed form, ``c = exp(1 / (2 D temperature²))``. ``info_nce`` is ``-log e(a, p) / (e(a, p) + sum_n e(a, n))``
    (van den Oord et al. 2018), the softmax form.

    All are unit vectors; the negatives ``[N, D]`` are shared, and ``allowed`` ``[B, N]`` is True if one counts for an anchor.
    """
    score_p = (anchor * positive).sum(1) / temperature
    score_n = anchor @ negatives.T / temperature
    if objective == "info_nce":
        scores = torch.cat([score_p.unsqueeze(1), score_n.masked_fill(~allowed, float("-inf"))], dim=1)
        return (scores.logsumexp(1) - score_p).mean()
    count = allowed.sum(1).clamp(min=1).to(score_p.dtype)
    shift = count.log() + 1 / (2 * anchor.shape[1] * temperature**2)
    wrong = F.softplus(score_n - shift.unsqueeze(1)).masked_fill(~allowed, 0.0).sum(1)  # -log(1 - h)
    return (F.softplus(shift - score_p) + wrong).mean()


def crd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    queue: tuple[Tensor, Tensor, Tensor] | None = None,
    temperature: float = 0.07,
    objective: Objective = "nce",
) -> Tensor:
    r"""Return the contrastive distillation loss ([Tian et al. 2020](https://arxiv.org/abs/1910.10699), section 3).

    $$ \tfrac1B \sum_i -\log h(s_i, t_i) - \sum_{n} \log(1 - h(s_i, t_n)) \; + \; \text{the same with } s
    \text{ and } t \text{ exchanged}, \quad h(a, x) = \frac{e^{a \cdot x / \tau}}{e^{a \cdot x / \tau} + N c} $$

    The sum of both directions is that of the authors' code; the paper's formula has one. ``contrast`` says what N and c are.

    Args:
        student: Embeddings ``[B, D]``, brought to unit length.
        teacher: Embeddings ``[B, D]``, brought to unit length.
        labels: The class of each sample, ``[B]`` (-1 if unknown): those of one class are not negatives of each other. If
            None, every other sample is a negative.
        queue: Further negatives: the student's unit vectors ``[K, D]``, the teacher's, and their classes ``[K]``.
        temperature: The temperature of the similarities, above 0.
        objective: ``nce`` (the paper's) or ``info_nce``, a softmax over the positive and the negatives.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.1], [0.2, 1.0]])
        >>> crd(student, teacher, temperature=0.5)
        tensor(1.4453)
    """
    student, teacher = unit_length(student), unit_length(teacher)
    labels = torch.full((len(student),), -1, device=student.device) if labels is None else labels
    others_s, others_t, known = student, teacher, labels
    if queue is not None:
        others_s, others_t = torch.cat([student, queue[0].to(student)]), torch.cat([teacher, queue[1].to(teacher)])
        known = torch.cat([labels, queue[2]])
    allowed = negatives_of(labels, known)
    return contrast(student, teacher, others_t, allowed, temperature, objective) + contrast(
        teacher, student, others_s, allowed, temperature, objective
    )


def negatives_of(labels: Tensor, known: Tensor) -> Tensor:
    """Return which samples of the classes ``known`` ``[M]`` (-1 if unknown) are negatives of the first ``B``, ``[B, M]``."""
    alike = (labels.unsqueeze(1) == known) & (known != -1)
    return ~(alike | torch.eye(len(labels), len(known), dtype=torch.bool, device=labels.device))


class CRD(FeatureCriterion):
    r"""Brings both networks' embeddings of a sample together, and away from those of other samples.

    $$ -\log h(s_i, t_i) - \sum_n \log(1 - h(s_i, t_n)), \text{ both ways} $$
    ([Tian et al. 2020](https://arxiv.org/abs/1910.10699)), see ``crd``.

    Each network's feature goes through a linear layer to a unit vector of ``embedding`` numbers; both layers are trained.
    Negatives are the other samples of the batch and a queue of earlier ones, without gradient; the queue starts with random
    vectors, is saved, and changes only in training. A batch of one has only the queue's negatives; without a queue, only
    its positive pair is drawn together.

    The original keeps a memory bank with one moving-averaged embedding per sample of the data set, which needs every
    sample's index, and takes ``N`` random entries as negatives and the sample's own *old* entry as the positive. Here
    negatives are the most recent ones and the positive is the present embedding, with its gradient. Its normalising
    constant is estimated once; here it is in closed form. At equal negatives no constant factor lies between the two. With
    several processes, each has its own queue, and a checkpoint keeps the first one's. Let the weight rise over the first
    steps with a schedule: at full weight from the start, the positives move all embeddings to one place.

    Args:
        student_layer: A layer reference; maps and tokens are averaged over positions; or ``auto``, the last stage's
            end.
        teacher_layer: The teacher's.
        embedding: Width of the embeddings; 128 in the paper.
        temperature: 0.07 in the authors' code.
        queue: Number of negatives kept per network; with 0, only those of the batch. 16,384 negatives in the paper.
        class_negatives: Do not use samples of the anchor's own class as negatives, as in the authors' code; needs labels.
        objective: ``nce`` (the paper's) or ``info_nce``.

    Raises:
        ValueError: An argument is out of range, or more than one layer is named.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student, teacher = (Outputs(torch.zeros(4, 2), {"pool": torch.randn(4, 6)}) for _ in range(2))
        >>> criterion = CRD("pool", "pool", embedding=8, queue=16)
        >>> round(criterion(student, teacher, torch.tensor([0, 0, 1, 1])).item(), 1)
        30.2
    """

    citation = Citation(
        "CRD",
        'Tian et al. 2020, "Contrastive Representation Distillation", ICLR',
        weight=0.8,
        url="https://arxiv.org/abs/1910.10699",
    )
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str = AUTO,
        teacher_layer: str = AUTO,
        embedding: int = 128,
        temperature: float = 0.07,
        queue: int = 16384,
        class_negatives: bool = True,
        objective: Objective = "nce",
    ) -> None:
        super().__init__(student_layer, teacher_layer)
        check_choice("objective", objective, OBJECTIVES)
        self.embedding = check_whole("embedding", embedding, least=1)
        self.queue = check_whole("queue", queue, least=0)
        self.temperature: float = check_temperature(temperature)
        self.class_negatives = self.needs_target = check_flag("class_negatives", class_negatives)
        self.objective: Objective = objective
        self.embed_s: nn.Module = nn.Identity()
        self.embed_t: nn.Module = nn.Identity()
        for name in ("queue_s", "queue_t"):
            self.register_buffer(name, _random_vectors(self.queue, self.embedding))
        self.register_buffer("queue_labels", torch.full((self.queue,), -1))  # no class: negatives of all
        self.queue_s: Tensor
        self.queue_t: Tensor
        self.queue_labels: Tensor

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the two linear layers; refuse references that name several layers."""
        made = bool(self.pairs)
        super().build(student, teacher)
        if len(self.pairs) > 1:
            raise ValueError(
                f"CRD compares one pair of layers, and {len(self.pairs)} are named; write a criterion for each."
            )
        if not made:
            name_s, name_t = self.pairs[0]
            self.embed_s = nn.Linear(pooled(student.features[name_s]).shape[1], self.embedding)
            self.embed_t = nn.Linear(pooled(teacher.features[name_t]).shape[1], self.embedding)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        ((feature_s, feature_t),) = self.pair_features(student, teacher)
        embedded_s = in_own_type(self.embed_s, pooled(feature_s, student.mask))
        embedded_t = in_own_type(self.embed_t, pooled(feature_t, student.mask))
        labels = self._labels(target, len(embedded_s), embedded_s.device)
        queue = (self.queue_s, self.queue_t, self.queue_labels)
        value = crd(embedded_s, embedded_t, labels, queue, self.temperature, self.objective)
        if self.training and torch.is_grad_enabled():
            self._remember(unit_length(embedded_s), unit_length(embedded_t), labels)
        return value

    def _labels(self, target: Tensor | None, batch: int, device: torch.device) -> Tensor:
        """Return the class of each sample, ``[B]``; -1 for all if classes play no part."""
        if not self.class_negatives or target is None:
            return torch.full((batch,), -1, device=device)
        try:
            labels = sample_classes(target, batch)
        except ValueError as error:
            raise ValueError(
                f"class_negatives needs one label per sample, and the labels are {list(target.shape)}; turn it off."
            ) from error
        return labels.masked_fill(labels == IGNORED_LABEL, -1)

    def _remember(self, embedded_s: Tensor, embedded_t: Tensor, labels: Tensor) -> None:
        # New tensors, not changed ones: the graph of this batch still reads the old.
        self.queue_s = _pushed(self.queue_s, embedded_s)
        self.queue_t = _pushed(self.queue_t, embedded_t)
        self.queue_labels = _pushed(self.queue_labels, labels)


def _random_vectors(count: int, width: int) -> Tensor:
    """Return ``[count, width]`` vectors of length near 1, like the authors' initial memory bank."""
    bound = (3 / width) ** 0.5
    return torch.empty(count, width).uniform_(-bound, bound)


def _pushed(queue: Tensor, new: Tensor) -> Tensor:
    """Return the queue with the new entries at its end and as many removed from its start."""
    size = len(queue)
    kept = queue[len(new) :]
    return torch.cat([kept, new.detach().to(queue.dtype)[len(new) - (size - len(kept)) :]])
