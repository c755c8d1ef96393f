"""CRD: Tian, Krishnan and Isola 2020, "Contrastive Representation Distillation", section 3."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.batch.labels import sample_classes
from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion, in_own_type
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.ops.normalisation import unit_length
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
    """Tell an anchor's positive from its negatives; the mean over anchors.

    ``nce`` is the paper's (section 3.1): ``-log h(a, p) - sum_n log(1 - h(a, n))`` with
    ``h(a, x) = e / (e + N c)``, ``e = exp(a·x / temperature)`` and ``N`` the number of the anchor's negatives. The paper
    has ``N / M`` in place of ``N c``, ``M`` the number of samples; its code divides ``e`` by a constant first, found in
    the first batch against a bank of random vectors, after which ``M`` cancels and ``c`` is the mean of ``e`` over random
    unit vectors. Here that mean is taken in closed form, ``c = exp(1 / (2 D temperature²))``.

    ``info_nce`` is ``-log e(a, p) / (e(a, p) + sum_n e(a, n))`` (van den Oord et al. 2018), the softmax form.

    Args:
        anchor: Unit vectors ``[B, D]``.
        positive: One for each, ``[B, D]``.
        negatives: For all, ``[N, D]``.
        allowed: True where a negative counts for an anchor, ``[B, N]``.
        temperature: Above 0.
        objective: ``nce`` or ``info_nce``.
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


class CRD(FeatureCriterion):
    """The two networks' embeddings of one sample alike, and unlike those of other samples.

    Both networks' features go through a linear layer each to unit vectors of ``embedding`` numbers; both layers train.
    The value is the sum of two contrasts, the student's embedding as the anchor among the teacher's and the other way
    round (the authors' code; the paper's formula has one). The authors' weight is 0.8. Negatives are the batch's
    other samples and a queue of those before, without gradient; the queue starts with random vectors, is saved, and
    changes in training alone. A batch of one has the queue's negatives alone; without a queue it has none, and only the
    positive pair is drawn together.

    What differs from the original: it keeps a memory bank of one moving-averaged embedding for each sample of the data
    set, which needs every sample's index, and takes ``N`` random entries as negatives and the sample's own *old* entry
    as the positive. Here negatives are the most recent ones and the positive is today's embedding, with its gradient.
    Its normalising constant is estimated once; here it is in closed form (see ``contrast``). Its two contrasts are each a sum
    over negatives and a mean over samples, as here, so that at equal negatives no constant factor lies between the two.

    Under several processes each has a queue of its own, and a checkpoint keeps the first one's. Schedule the weight
    to rise over the first steps: at once at full weight, the positives move all embeddings to one place.

    Args:
        student_layer: A layer reference; maps and tokens are averaged over positions.
        teacher_layer: The teacher's.
        embedding: Width of the embeddings; 128 in the paper.
        temperature: 0.07 in the authors' code.
        queue: How many negatives are kept for each network; 0 leaves the batch's own. 16,384 negatives in the paper.
        class_negatives: Samples of the anchor's own class are no negatives, as in the authors' code;
            needs labels. Otherwise every other sample is one.
        objective: ``nce`` (the paper's) or ``info_nce``.

    Raises:
        ValueError: An argument is out of range, or more than one layer is named.
    """

    about = About("CRD", 'Tian et al. 2020, "Contrastive Representation Distillation", ICLR', weight=0.8)

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str,
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
        self.temperature = check_temperature(temperature)
        self.class_negatives = self.needs_target = check_flag("class_negatives", class_negatives)
        self.objective: Objective = objective
        self.embed_s: nn.Module = nn.Identity()
        self.embed_t: nn.Module = nn.Identity()
        for name in ("queue_s", "queue_t"):
            self.register_buffer(name, _random_vectors(self.queue, self.embedding))
        self.register_buffer("queue_labels", torch.full((self.queue,), -1))  # no class: a negative for all
        self.queue_s: Tensor
        self.queue_t: Tensor
        self.queue_labels: Tensor

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the two linear layers.

        Raises:
            ValueError: A reference names several layers.
        """
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
        embedded_s = unit_length(in_own_type(self.embed_s, pooled(feature_s, student.mask)))
        embedded_t = unit_length(in_own_type(self.embed_t, pooled(feature_t, student.mask)))
        labels = self._labels(target, len(embedded_s), embedded_s.device)
        allowed = self._allowed(labels)
        others_s, others_t = self.queue_s.to(embedded_s), self.queue_t.to(embedded_t)
        value = contrast(
            embedded_s, embedded_t, torch.cat([embedded_t, others_t]), allowed, self.temperature, self.objective
        ) + contrast(
            embedded_t, embedded_s, torch.cat([embedded_s, others_s]), allowed, self.temperature, self.objective
        )
        if self.training and torch.is_grad_enabled():
            self._remember(embedded_s, embedded_t, labels)
        return value

    def _labels(self, target: Tensor | None, batch: int, device: torch.device) -> Tensor:
        """Each sample's class, ``[B]``; -1, which is none, where classes play no part."""
        if not self.class_negatives or target is None:
            return torch.full((batch,), -1, device=device)
        try:
            labels = sample_classes(target, batch)
        except ValueError as error:
            raise ValueError(
                f"class_negatives needs one label a sample, and the labels are {list(target.shape)}; turn it off."
            ) from error
        return labels.masked_fill(labels == IGNORED_LABEL, -1)

    def _allowed(self, labels: Tensor) -> Tensor:
        """Which of the batch's samples and of the queue are negatives of which sample, ``[B, B + K]``."""
        known = torch.cat([labels, self.queue_labels])
        alike = (labels.unsqueeze(1) == known) & (known != -1)
        return ~(alike | torch.eye(len(labels), len(known), dtype=torch.bool, device=labels.device))

    def _remember(self, embedded_s: Tensor, embedded_t: Tensor, labels: Tensor) -> None:
        # New tensors, not changed ones: the graph of this batch still reads the old.
        self.queue_s = _pushed(self.queue_s, embedded_s)
        self.queue_t = _pushed(self.queue_t, embedded_t)
        self.queue_labels = _pushed(self.queue_labels, labels)


def _random_vectors(count: int, width: int) -> Tensor:
    """Of length near 1, as the authors' memory bank begins: ``[count, width]``."""
    bound = (3 / width) ** 0.5
    return torch.empty(count, width).uniform_(-bound, bound)


def _pushed(queue: Tensor, new: Tensor) -> Tensor:
    """The queue with the new entries at its end and as many fewer at its beginning."""
    size = len(queue)
    kept = queue[len(new) :]
    return torch.cat([kept, new.detach().to(queue.dtype)[len(new) - (size - len(kept)) :]])
