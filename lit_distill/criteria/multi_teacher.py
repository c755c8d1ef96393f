"""Features of several teachers for one student, as in AM-RADIO and Theia."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.hint import hint
from lit_distill.criteria.layers import AUTO, checked_layers
from lit_distill.criteria.ops.features import channel_dim
from lit_distill.criteria.ops.phi_s import hadamard, phi_s
from lit_distill.criteria.ops.statistics import Statistics
from lit_distill.criteria.projectors import Projector
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_number, check_numbers, check_whole

Standardise = Literal["dimension", "phi_s", "none"]
STANDARDISATIONS: tuple[Standardise, ...] = get_args(Standardise)


def match_features(student: Tensor, teacher: Tensor, cosine: float = 0.9) -> Tensor:
    r"""Return the feature matching loss of [AM-RADIO](https://arxiv.org/abs/2312.06709) (Ranzinger et al. 2024, section 3.4).

    $$ a\,(1 - \cos(s, t)) + (1 - a)\,\mathrm{smooth\_l1}(s, t) $$

    The cosine is over channels; both terms are means over positions.

    Args:
        student: ``[B, D]``, ``[B, N, D]`` or ``[B, C, H, W]``.
        teacher: The same shape.
        cosine: ``a``, the share of the cosine, in [0, 1].

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> match_features(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.6100)
    """
    return cosine * hint(student, teacher, "cosine") + (1 - cosine) * hint(student, teacher, "smooth_l1")


class Standardiser(nn.Module):
    """Brings one teacher's features to mean 0 and variance 1, with statistics of the first ``batches`` training batches.

    ``dimension`` divides each dimension by its own deviation (Theia). ``phi_s`` divides by one number and rotates (PHI-S).
    Here the rotation comes last and is applied to both networks' features: the student's head learns ``(x - mu) / phi``.
    Rotating its output is the same as rotating the matrix of its last linear layer, so the student learns what it would
    learn if only the teacher's side were rotated, and while the rotation is still being estimated, nothing that the head
    has learned is turned around.
    """

    seen: Tensor
    rotation: Tensor
    scale: Tensor

    def __init__(self, width: int, kind: Standardise, batches: int) -> None:
        super().__init__()
        self.kind: Standardise = kind
        self.batches = batches
        if kind == "none":
            return
        self.statistics = Statistics(width, full=kind == "phi_s")
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        if kind == "phi_s":
            hadamard(width)  # raises here rather than in training
            self.register_buffer("rotation", torch.eye(width))
            self.register_buffer("scale", torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's prediction and the teacher's feature, of one shape, ready to be compared."""
        if self.kind == "none":
            return student, teacher
        dim = channel_dim(teacher)
        last_s, last_t = student.movedim(dim, -1), teacher.movedim(dim, -1)
        rows = last_t.detach().flatten(0, -2)
        if self.training and torch.is_grad_enabled() and int(self.seen) < self.batches:
            self._look(rows)
        mean, covariance = self.statistics.moments(rows)
        if self.kind == "dimension":
            deviation = covariance.sqrt()
            return student, ((last_t - mean) / torch.where(deviation > 0, deviation, 1)).movedim(-1, dim)
        rotation, scale = (self.rotation, self.scale) if int(self.seen) else phi_s(covariance)
        turned_t = (last_t - mean) / scale.to(mean) @ rotation.to(mean).T
        turned_s = last_s @ rotation.to(student).T
        return turned_s.movedim(-1, dim), turned_t.movedim(-1, dim)

    @torch.no_grad()
    def _look(self, rows: Tensor) -> None:
        """Add a training batch to the statistics."""
        self.statistics.update(rows)
        self.seen += 1
        seen = int(self.seen)
        # The decomposition is slow at large widths: only when the number of batches has doubled, and at the end.
        if self.kind == "phi_s" and (seen & (seen - 1) == 0 or seen == self.batches):
            rotation, scale = phi_s(self.statistics.moments(rows)[1])
            self.rotation.copy_(rotation)
            self.scale.copy_(scale)


class MultiTeacher(FeatureCriterion):
    r"""The features of several teachers, each through its own head; the weighted sum over teachers.

    $$ \sum_k w_k \bigl[a\,(1 - \cos(h_k(s), t_k)) + (1 - a)\,\mathrm{smooth\_l1}(h_k(s), t_k)\bigr] $$
    ([AM-RADIO](https://arxiv.org/abs/2312.06709), [Theia](https://arxiv.org/abs/2407.20179),
    [PHI-S](https://arxiv.org/abs/2410.01680)), see ``match_features``.

    The module's teacher is a ``lit_distill.models.Ensemble``, whose members' layers are ``0.layer3``, ``1.layer3`` and so
    on. Each has a projector from the student's layer, trained and saved with the criterion. RADIO and Theia have a = 0.9;
    RADIO takes only the cosine for the summary token, Theia's cosine runs over the whole flattened map. Their heads are
    perceptrons and convolutions; these are linear.

    Teachers differ in scale by orders of magnitude, and without standardisation the largest dominates. The statistics are
    those of the first ``batches`` training batches and are fixed afterwards; they are buffers, saved in the checkpoint, and
    the same in every process. PHI-S keeps two ``[D, D]`` matrices per teacher.

    Args:
        student_layer: The layer that all heads read, or one per teacher; or ``auto``, the end of the last stage.
        teacher_layer: A layer of each teacher, named one by one; or ``auto``, the end of each member's last stage.
        standardise: ``dimension``, ``phi_s`` or ``none``.
        teacher_weights: One per teacher, at least 0; 1 each if None.
        cosine: Share of the cosine, in [0, 1]; smooth L1 has the rest.
        batches: Number of training batches that the statistics are gathered over, at least 1.

    Raises:
        ValueError: An argument is out of range, or the numbers of layers and weights differ.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student = Outputs(torch.zeros(8, 2), {"pool": torch.randn(8, 3)})
        >>> teacher = Outputs(torch.zeros(8, 2), {"0.pool": torch.randn(8, 4), "1.pool": torch.randn(8, 6)})
        >>> criterion = MultiTeacher("pool", ["0.pool", "1.pool"], standardise="dimension")
        >>> round(criterion(student, teacher).item(), 1)
        1.9
    """

    auto_stages = "each_teacher"
    citation = Citation(
        "RADIO / Theia / PHI-S",
        'Ranzinger et al. 2024, "AM-RADIO: Agglomerative Vision Foundation Model", CVPR; Shang et al. 2024, "Theia: '
        'Distilling Diverse Vision Foundation Models for Robot Learning", CoRL; Ranzinger et al. 2024, "PHI-S: '
        'Distribution Balancing for Label-Free Multi-Teacher Distillation", arXiv 2410.01680',
        weight=1,
        url="https://arxiv.org/abs/2312.06709",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        standardise: Standardise = "phi_s",
        teacher_weights: list[float] | None = None,
        cosine: float = 0.9,
        batches: int = 100,
    ) -> None:
        layers_t = list(checked_layers(teacher_layer, "teacher_layer"))
        found = AUTO in layers_t or student_layer == AUTO
        repeated = isinstance(student_layer, str) and not found
        super().__init__([student_layer] * len(layers_t) if repeated else student_layer, layers_t, project=True)  # type: ignore[list-item]
        check_choice("standardise", standardise, STANDARDISATIONS)
        self.standardise: Standardise = standardise
        self.teacher_weights = _check_weights(teacher_weights, None if AUTO in layers_t else len(layers_t))
        self.cosine = check_number("cosine", cosine, least=0, most=1)
        self.batches = check_whole("batches", batches, least=1)
        self.standardisers = nn.ModuleList()

    def make_projector(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        return Projector(student, teacher, kind="linear")  # always there, as teachers of one width still differ

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Pair the layers, one per teacher, and size the heads and the statistics."""
        super().build(student, teacher)
        self.teacher_weights = self.teacher_weights or [1.0] * len(self.pairs)
        if len(self.pairs) != len(self.teacher_weights):
            raise ValueError(
                f"{len(self.pairs)} pairs of layers for {len(self.teacher_weights)} teachers; name one layer for each."
            )
        if not self.standardisers:
            features = [teacher.features[name] for _, name in self.pairs]
            widths = [feature.shape[channel_dim(feature)] for feature in features]
            self.standardisers = nn.ModuleList(Standardiser(w, self.standardise, self.batches) for w in widths)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        pairs = self.pair_features(student, teacher)
        values = []
        for weight, standardiser, pair in zip(self.teacher_weights, self.standardisers, pairs, strict=True):
            feature_s, feature_t = standardiser(*pair)
            values.append(weight * match_features(feature_s, feature_t, self.cosine))
        return torch.stack(values).sum()


def _check_weights(weights: Sequence[float] | None, count: int | None) -> list[float]:
    """Return a weight for each teacher; none yet if their number is not known."""
    if weights is None:
        return [1.0] * (count or 0)
    found = check_numbers("teacher_weights", weights, least=0)
    if count is not None and len(found) != count:
        raise ValueError(f"{len(found)} teacher_weights for {count} teachers; give one for each.")
    if not any(found):
        raise ValueError(f"teacher_weights must have a number above 0 for some teacher, not {found}.")
    return found
