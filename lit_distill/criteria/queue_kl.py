"""How near a sample is to many others, as a distribution: distillation of embeddings by a queue.

Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation", section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.ops.normalisation import unit_length
from lit_distill.criteria.ops.softmax_kl import softmax_kl
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_temperature, check_whole
from lit_distill.utils.distributed import gather_rows


def queue_kl(
    student: Tensor,
    teacher: Tensor,
    bank: Tensor,
    temperature: float = 0.07,
    teacher_temperature: float | None = None,
) -> Tensor:
    """``mean KL(softmax(e_t Q^T / T_t) || softmax(e_s Q^T / T))`` with embeddings ``e`` and the bank's rows of length 1.

    SEED's cross-entropy is larger by the entropy of the teacher's distribution, which no student changes.

    Args:
        student: The student's embeddings in the teacher's width, ``[B, D]``.
        teacher: The teacher's, ``[B, D]``.
        bank: Embeddings that both are compared with, ``[Q, D]``, of unit length.
        temperature: T of the student, above 0.
        teacher_temperature: T of the teacher; the student's where None.
    """
    scores_s = unit_length(student) @ bank.T / temperature
    scores_t = unit_length(teacher) @ bank.T / (teacher_temperature or temperature)
    return softmax_kl(scores_s, scores_t).mean()


class QueueKL(FeatureCriterion):
    """The student's samples are as near to the teacher's latest embeddings as the teacher's are; needs no labels.

    The queue holds the teacher's newest ``size`` embeddings, first in, first out, this batch's among them. It starts
    empty, and only what is in it counts: the first batch is compared with itself, and gives 0 without a gradient where it is of
    one sample; later batches of one are compared with the queue. Maps and tokens are averaged over
    positions first; a linear layer takes the student's embedding to the teacher's width.

    The settings of LightlyTrain's first distillation method are the defaults: temperature 0.07 for both networks, 8,192
    embeddings (a quarter to a half of a small data set: not more, or the queue holds the sample's own older views), the
    layer starting from a truncated normal of deviation 0.02; weight 1. SEED itself: 65,536 embeddings, temperature 0.2,
    ``teacher_temperature`` 0.01, and of this batch only the sample itself beside the queue.

    The queue (``size x D_t``) is in the checkpoint, and changes in training alone. In distributed training every process
    has the embeddings of all of them, in the order of the ranks: one queue, as for one process with the same batch. With
    a weight of 0 it does not fill.

    Args:
        student_layer: The layer that gives the student's embedding.
        teacher_layer: The teacher's.
        size: Length of the queue, at least 1.
        temperature: Above 0.
        teacher_temperature: Above 0; as ``temperature`` where None.

    Raises:
        ValueError: An argument is out of range; or, when built, there is more than one layer a network.
    """

    about = About(
        "SEED / queue KL",
        'Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation", ICLR',
        weight=1,
    )
    queue: Tensor
    filled: Tensor

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str,
        size: int = 8192,
        temperature: float = 0.07,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(student_layer, teacher_layer)
        self.size = check_whole("size", size, least=1)
        self.temperature = check_temperature(temperature)
        self.teacher_temperature: float | None = None
        if teacher_temperature is not None:
            self.teacher_temperature = check_temperature(teacher_temperature, "teacher_temperature")
        self.projector: nn.Linear | None = None
        self.register_buffer("queue", torch.empty(self.size, 0))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the layer and the queue.

        Raises:
            ValueError: The references name more than one layer.
        """
        super().build(student, teacher)
        if len(self.pairs) != 1:
            raise ValueError(f"one layer a network gives the embedding, and these are {len(self.pairs)}; name one.")
        if self.projector is not None:
            return
        embedding_s, embedding_t = self._embeddings(student, teacher)
        self.projector = nn.Linear(embedding_s.shape[-1], embedding_t.shape[-1])
        nn.init.trunc_normal_(self.projector.weight, std=0.02)
        self.queue = torch.zeros(self.size, embedding_t.shape[-1])

    def _embeddings(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        ((feature_s, feature_t),) = self.pair_features(student, teacher)
        return pooled(feature_s, student.mask), pooled(feature_t, student.mask)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if self.projector is None:
            self.build(student, teacher)
        assert self.projector is not None
        embedding_s, embedding_t = self._embeddings(student, teacher)
        projected = self.projector(embedding_s.to(self.projector.weight.dtype)).to(embedding_s.dtype)
        learning = self.training and torch.is_grad_enabled()
        newest = unit_length(embedding_t.detach())
        newest = gather_rows(newest) if learning else newest
        # A new tensor: the queue may change while the backward pass still needs what was compared with.
        bank = torch.cat([newest, self.queue[: int(self.filled)].to(newest)])[: max(self.size, len(newest))]
        if learning:
            self._remember(bank[: self.size])
        return queue_kl(projected, embedding_t, bank, self.temperature, self.teacher_temperature)

    @torch.no_grad()
    def _remember(self, bank: Tensor) -> None:
        self.queue[: len(bank)] = bank.to(self.queue.dtype)
        self.filled.fill_(len(bank))
