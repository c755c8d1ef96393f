"""RKD: relational knowledge distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_shares, check_whole

_COINCIDENT = 1e-12  # squared distance, as in the authors' code; nearer samples count as one point


def rkd_distance(student: Tensor, teacher: Tensor, chunk: int | None = None) -> Tensor:
    r"""Return the distance-wise loss of RKD ([Park et al. 2019](https://arxiv.org/abs/1904.05068), section 3.2.1).

    $$ \frac{1}{B^2} \sum_{ij} \ell\bigl(d^s_{ij} / \mu^s,\; d^t_{ij} / \mu^t\bigr) $$

    $d_{ij}$ is the Euclidean distance of two samples, $\mu$ its mean over pairs that are apart, and $\ell$ the Huber
    loss with delta 1. The mean counts all ``B²`` pairs, including each sample with itself, as in the authors' code.

    Args:
        student: Embeddings ``[B, …]``, flattened; not normalised before.
        teacher: ``[B, …]``; its other dimensions need not match.
        chunk: Number of samples that are compared with the batch at a time; all if None.

    Examples:
        >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [4.0]])
        >>> rkd_distance(student, teacher)
        tensor(0.0312)
    """
    scaled = []
    for feature in (student, teacher):
        distances = _distances(feature.flatten(1), chunk)
        apart = (distances > 0).sum().clamp(min=1)
        scaled.append(distances / (distances.sum() / apart).clamp(min=_COINCIDENT))
    return F.smooth_l1_loss(scaled[0], scaled[1])


def rkd_angle(student: Tensor, teacher: Tensor, chunk: int | None = None) -> Tensor:
    r"""Return the angle-wise loss of RKD ([Park et al. 2019](https://arxiv.org/abs/1904.05068), section 3.2.2).

    $$ \frac{1}{B^3} \sum_{ijk} \ell\bigl(\cos \angle^s_{jik},\; \cos \angle^t_{jik}\bigr) $$

    The angle is that at sample ``i`` between the directions to ``j`` and ``k``, and $\ell$ the Huber loss with delta 1. The
    mean counts all ``B³`` triplets, including those of fewer than three different samples, as in the authors' code.

    Args:
        student: Embeddings ``[B, …]``, flattened; not normalised before.
        teacher: ``[B, …]``; its other dimensions need not match.
        chunk: Number of samples ``i`` that are compared with the batch at a time; all if None.

    Examples:
        >>> student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(student, torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
        tensor(0.0370)
    """
    flat_s, flat_t = student.flatten(1), teacher.flatten(1)

    def total(anchors: slice) -> Tensor:
        return F.smooth_l1_loss(_cosines(flat_s, anchors), _cosines(flat_t, anchors), reduction="sum")

    return torch.stack(_in_chunks(total, len(flat_s), chunk)).sum() / len(flat_s) ** 3


def rkd(
    student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0, chunk: int | None = None
) -> Tensor:
    r"""Return the relational loss ([Park et al. 2019](https://arxiv.org/abs/1904.05068), section 3.2.3).

    $$ \lambda_D L_D + \lambda_A L_A $$

    Args:
        student: Embeddings ``[B, …]``, flattened; not normalised before.
        teacher: ``[B, …]``; its other dimensions need not match.
        distance: Weight of ``rkd_distance``.
        angle: Weight of ``rkd_angle``.
        chunk: Number of samples that are compared with the batch at a time; all if None. A whole batch holds ``B³ + B² D``
            numbers per network; a chunk ``c`` at most ``c B (B + D)``, which are computed a second time for the gradient.

    Examples:
        >>> student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd(student, torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
        tensor(2.5878)
    """
    value = student.new_zeros(())
    if distance:
        value = value + distance * rkd_distance(student, teacher, chunk)
    if angle:
        value = value + angle * rkd_angle(student, teacher, chunk)
    return value


def _distances(embeddings: Tensor, chunk: int | None) -> Tensor:
    """Return the distance of every two samples, ``[B, B]``."""
    return torch.cat(_in_chunks(lambda anchors: _directions(embeddings, anchors)[1], len(embeddings), chunk))


def _cosines(embeddings: Tensor, anchors: slice) -> Tensor:
    """Return the cosines of the angles at ``anchors`` between every two samples, ``[b, B, B]``."""
    unit, _ = _directions(embeddings, anchors)
    return torch.bmm(unit, unit.transpose(1, 2))


def _directions(embeddings: Tensor, anchors: slice) -> tuple[Tensor, Tensor]:
    """Return unit vectors ``[b, B, D]`` and distances ``[b, B]`` from ``anchors`` to all; 0 for coincident samples."""
    difference = embeddings.unsqueeze(0) - embeddings[anchors].unsqueeze(1)
    square = difference.square().sum(-1)
    coincident = square < _COINCIDENT
    # The gradient of the root at 0 is infinite, and NaN times 0: coincident pairs take the root of 1.
    length = square.masked_fill(coincident, 1.0).sqrt()
    unit = (difference / length.unsqueeze(-1)).masked_fill(coincident.unsqueeze(-1), 0.0)
    return unit, length.masked_fill(coincident, 0.0)


def _in_chunks(function: Callable[[slice], Tensor], samples: int, chunk: int | None) -> list[Tensor]:
    """Apply a function to chunks of the samples; with several, it is computed again for the gradient."""
    if chunk is None or chunk >= samples:
        return [function(slice(0, samples))]
    starts = range(0, samples, chunk)
    return [
        checkpoint(function, slice(start, start + chunk), use_reentrant=False, preserve_rng_state=False)
        for start in starts
    ]


class RKD(FeatureCriterion):
    r"""Distances and angles between the samples of a batch; the mean over pairs of layers.

    $$ \lambda_D L_D + \lambda_A L_A $$ ([Park et al. 2019](https://arxiv.org/abs/1904.05068)), see ``rkd``,
    ``rkd_distance`` and ``rkd_angle``.

    Embeddings are used as they are: neither projected (widths need not match) nor normalised. The paper compares one layer,
    the pooled embedding before the classifier. Its weights are inside, 25 and 50 on CIFAR-100 (as in RepDistiller and
    mdistiller), so that the weight in a sum is 1. Time and memory grow with the cube of the batch; ``chunk`` bounds the
    memory. A batch of one has no relations and gives 0 without a gradient; so do samples nearer than 1e-6, which count as
    one point. The value depends on which samples meet in a batch, and on how many processes share it.

    Args:
        student_layer: A layer reference, a glob or a list of them; or ``auto``, the last stage's end.
        teacher_layer: The teacher's layers, as many.
        distance: Weight of the distances, at least 0.
        angle: Weight of the angles, at least 0.
        chunk: Number of samples that are compared with the batch at a time; all if None.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: A weight is negative, both are 0, or ``chunk`` is below 1.

    Examples:
        >>> student = Outputs(torch.zeros(3, 2), {"pool": torch.tensor([[0.0], [1.0], [2.0]])})
        >>> teacher = Outputs(torch.zeros(3, 2), {"pool": torch.tensor([[0.0], [1.0], [4.0]])})
        >>> RKD("pool", "pool")(student, teacher)
        tensor(0.7812)
    """

    citation = Citation(
        "RKD",
        'Park et al. 2019, "Relational Knowledge Distillation", CVPR',
        weight=1.0,
        url="https://arxiv.org/abs/1904.05068",
    )
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        distance: float = 25.0,
        angle: float = 50.0,
        chunk: int | None = None,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)
        self.distance, self.angle = check_shares({"distance": distance, "angle": angle})
        self.chunk = None if chunk is None else check_whole("chunk", chunk, least=1)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = [rkd(s, t, self.distance, self.angle, self.chunk) for s, t in pairs]
        return torch.stack(values).mean()
