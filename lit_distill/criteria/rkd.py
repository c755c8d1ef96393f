"""RKD: Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", section 3."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_shares, check_whole

_COINCIDENT = 1e-12  # squared distance, as in the authors' code; nearer samples count as one point


def rkd_distance(student: Tensor, teacher: Tensor, chunk: int | None = None) -> Tensor:
    """``mean_ij l(d_ij^s / mu^s, d_ij^t / mu^t)``, the distance-wise loss (section 3.2.1).

    ``d_ij`` is the Euclidean distance of two samples, ``mu`` its mean over pairs that are apart, ``l`` the Huber
    loss with delta 1. The mean counts all ``B²`` pairs, each sample with itself among them, as the authors' code does.

    Args:
        student: Embeddings ``[B, …]``, flattened; not normalised before.
        teacher: ``[B, …]``; its other dimensions need not match.
        chunk: Samples at a time, as in ``rkd``.
    """
    scaled = []
    for feature in (student, teacher):
        distances = _distances(feature.flatten(1), chunk)
        apart = (distances > 0).sum().clamp(min=1)
        scaled.append(distances / (distances.sum() / apart).clamp(min=_COINCIDENT))
    return F.smooth_l1_loss(scaled[0], scaled[1])


def rkd_angle(student: Tensor, teacher: Tensor, chunk: int | None = None) -> Tensor:
    """``mean_ijk l(cos ∠_jik^s, cos ∠_jik^t)``, the angle-wise loss (section 3.2.2).

    The angle at sample ``i`` between the directions to ``j`` and ``k``; the mean counts all ``B³`` triplets, those of
    fewer than three samples too, as the authors' code does.

    Args:
        student: Embeddings ``[B, …]``, flattened; not normalised before.
        teacher: ``[B, …]``; its other dimensions need not match.
        chunk: Samples ``i`` at a time, as in ``rkd``.
    """
    flat_s, flat_t = student.flatten(1), teacher.flatten(1)

    def total(anchors: slice) -> Tensor:
        return F.smooth_l1_loss(_cosines(flat_s, anchors), _cosines(flat_t, anchors), reduction="sum")

    return torch.stack(_in_chunks(total, len(flat_s), chunk)).sum() / len(flat_s) ** 3


def rkd(
    student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0, chunk: int | None = None
) -> Tensor:
    """``distance · L_D + angle · L_A`` (section 3.2.3, without the task's loss).

    Args:
        student: Embeddings ``[B, …]``.
        teacher: Embeddings ``[B, …]``.
        distance: Weight of ``rkd_distance``.
        angle: Weight of ``rkd_angle``.
        chunk: How many samples ``i`` are compared at a time. Whole batches hold ``B³ + B² D`` numbers for each network;
            with a chunk ``c`` no more than ``c B (B + D)`` are held, and are computed a second time for the gradient.
    """
    value = student.new_zeros(())
    if distance:
        value = value + distance * rkd_distance(student, teacher, chunk)
    if angle:
        value = value + angle * rkd_angle(student, teacher, chunk)
    return value


def _distances(embeddings: Tensor, chunk: int | None) -> Tensor:
    """Of every two samples, ``[B, B]``."""
    return torch.cat(_in_chunks(lambda anchors: _directions(embeddings, anchors)[1], len(embeddings), chunk))


def _cosines(embeddings: Tensor, anchors: slice) -> Tensor:
    """Of the angles at some samples between every two others, ``[b, B, B]``."""
    unit, _ = _directions(embeddings, anchors)
    return torch.bmm(unit, unit.transpose(1, 2))


def _directions(embeddings: Tensor, anchors: slice) -> tuple[Tensor, Tensor]:
    """From some samples to all: unit vectors ``[b, B, D]`` and distances ``[b, B]``, both 0 for coincident samples."""
    difference = embeddings.unsqueeze(0) - embeddings[anchors].unsqueeze(1)
    square = difference.square().sum(-1)
    coincident = square < _COINCIDENT
    # The root's own gradient at 0 is infinite, and times 0 it is NaN: coincident pairs take another number's root.
    length = square.masked_fill(coincident, 1.0).sqrt()
    unit = (difference / length.unsqueeze(-1)).masked_fill(coincident.unsqueeze(-1), 0.0)
    return unit, length.masked_fill(coincident, 0.0)


def _in_chunks(function: Callable[[slice], Tensor], samples: int, chunk: int | None) -> list[Tensor]:
    """A function of some samples at a time, which keeps nothing for the gradient where there are several chunks."""
    if chunk is None or chunk >= samples:
        return [function(slice(0, samples))]
    starts = range(0, samples, chunk)
    return [
        checkpoint(function, slice(start, start + chunk), use_reentrant=False, preserve_rng_state=False)
        for start in starts
    ]


class RKD(FeatureCriterion):
    """How far apart the samples of a batch are, and under which angles they see each other; the mean over pairs.

    Embeddings are read as they are: neither projected (widths need not match) nor normalised. One layer, the pooled
    embedding before the classifier, is what the paper compares. The paper's weights are inside, 25 and 50 on
    CIFAR-100 (RepDistiller and mdistiller alike), so that its weight in a sum is 1.

    It has no parameters. Time and memory grow with the cube of the batch: ``chunk`` bounds the memory, see ``rkd``. A
    batch of one has no relations and gives 0 without a gradient; so do samples nearer than 1e-6, which count
    as one point. Other than for a mean over samples, the value depends on which samples
    meet in a batch, and on how many processes share it.

    Args:
        student_layer: A layer reference, a glob or a list of them.
        teacher_layer: The teacher's layers, as many.
        distance: Weight of the distances, at least 0.
        angle: Weight of the angles, at least 0.
        chunk: Samples compared with the batch at a time; all where None.

    Raises:
        ValueError: A weight is negative, both are 0, or ``chunk`` is below 1.
    """

    about = About("RKD", 'Park et al. 2019, "Relational Knowledge Distillation", CVPR', weight=1.0)

    def __init__(
        self,
        student_layer: str | list[str],
        teacher_layer: str | list[str],
        distance: float = 25.0,
        angle: float = 50.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(student_layer, teacher_layer)
        self.distance, self.angle = check_shares({"distance": distance, "angle": angle})
        self.chunk = None if chunk is None else check_whole("chunk", chunk, least=1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [rkd(s, t, self.distance, self.angle, self.chunk) for s, t in pairs]
        return torch.stack(values).mean()
