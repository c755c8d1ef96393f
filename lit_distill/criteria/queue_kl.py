"""Distillation of embeddings by their similarities to a queue, as in SEED."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.criteria.base import Citation, FeatureCriterion, in_own_type
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.ops.features import pooled, unit_length
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
    r"""Return the divergence of similarities to a bank ([Fang et al. 2021](https://arxiv.org/abs/2101.04731), section 3.2).

    $$ \tfrac1B \sum_b \mathrm{KL}\bigl(\mathrm{softmax}(e^t_b Q^\top / T_t) \,\big\|\,
    \mathrm{softmax}(e^s_b Q^\top / T)\bigr) $$

    Embeddings are brought to length 1. SEED's cross-entropy is larger by the entropy of the teacher's distribution.

    Args:
        student: The student's embeddings in the teacher's width, ``[B, D]``.
        teacher: The teacher's, ``[B, D]``.
        bank: Embeddings that both are compared with, ``[Q, D]``, of unit length.
        temperature: T of the student, above 0.
        teacher_temperature: T of the teacher; if None, that of the student.

    Examples:
        >>> queue_kl(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]), bank=torch.eye(2), temperature=0.5)
        tensor(0.3278)
    """
    scores_s = unit_length(student) @ bank.T / temperature
    scores_t = unit_length(teacher) @ bank.T / (teacher_temperature or temperature)
    return softmax_kl(scores_s, scores_t).mean()


class QueueKL(FeatureCriterion):
    r"""The student's samples are as similar to the teacher's latest embeddings as the teacher's are; needs no labels.

    $$ \mathrm{KL}\bigl(\mathrm{softmax}(e^t Q^\top / T_t) \,\big\|\, \mathrm{softmax}(e^s Q^\top / T)\bigr) $$
    ([Fang et al. 2021](https://arxiv.org/abs/2101.04731)), see ``queue_kl``.

    The queue holds the teacher's newest ``size`` embeddings, first in, first out, including those of this batch. It starts
    empty, and only its entries count: the first batch is compared with itself, and gives 0 without a gradient if it has
    one sample; later batches of one are compared with the queue. Maps and tokens are averaged over
    positions first; a linear layer maps the student's to the teacher's width.

    The defaults are those of LightlyTrain's first distillation method: temperature 0.07 for both networks, 8,192
    embeddings (a quarter to a half of a small data set, not more, or the queue holds the sample's own older views), the
    layer initialised from a truncated normal of deviation 0.02; weight 1. SEED itself: 65,536 embeddings, temperature 0.2,
    ``teacher_temperature`` 0.01, and only the sample itself and the queue to compare with, not the rest of the batch.

    The queue (``size x D_t``) is saved in the checkpoint, and changes only in training. In distributed training every process
    has the embeddings of all of them, in the order of the ranks. With a weight of 0 it does not fill.

    Args:
        student_layer: The layer that gives the student's embedding; or ``auto``, the last stage's end.
        teacher_layer: The teacher's.
        size: Length of the queue, at least 1.
        temperature: The temperature of the student's similarities, above 0.
        teacher_temperature: That of the teacher's, above 0; the same as ``temperature`` if None.

    Raises:
        ValueError: An argument is out of range; or, when built, there is more than one layer per network.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student, teacher = (Outputs(torch.zeros(4, 2), {"pool": torch.randn(4, 6)}) for _ in range(2))
        >>> round(QueueKL("pool", "pool", size=16)(student, teacher).item(), 1)
        3.4
    """

    citation = Citation(
        "SEED / queue KL",
        'Fang et al. 2021, "SEED: Self-supervised Distillation for Visual Representation", ICLR',
        weight=1,
        url="https://arxiv.org/abs/2101.04731",
    )
    queue: Tensor
    filled: Tensor
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str = AUTO,
        teacher_layer: str = AUTO,
        size: int = 8192,
        temperature: float = 0.07,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(student_layer, teacher_layer)
        self.size = check_whole("size", size, least=1)
        self.temperature: float = check_temperature(temperature)
        self.teacher_temperature: float | None = None
        if teacher_temperature is not None:
            self.teacher_temperature = check_temperature(teacher_temperature, "teacher_temperature")
        self.projector: nn.Linear | None = None
        self.register_buffer("queue", torch.empty(self.size, 0))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the layer and the queue; refuse references that name several layers."""
        super().build(student, teacher)
        if len(self.pairs) != 1:
            raise ValueError(f"one layer per network gives the embedding, and these are {len(self.pairs)}; name one.")
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
        projected = in_own_type(self.projector, embedding_s)
        learning = self.training and torch.is_grad_enabled()
        newest = unit_length(embedding_t.detach())
        newest = gather_rows(newest) if learning else newest
        # A new tensor: the queue may change while the backward pass still needs the bank.
        bank = torch.cat([newest, self.queue[: int(self.filled)].to(newest)])[: max(self.size, len(newest))]
        if learning:
            self._remember(bank[: self.size])
        return queue_kl(projected, embedding_t, bank, self.temperature, self.teacher_temperature)

    @torch.no_grad()
    def _remember(self, bank: Tensor) -> None:
        self.queue[: len(bank)] = bank.to(self.queue.dtype)
        self.filled.fill_(len(bank))
