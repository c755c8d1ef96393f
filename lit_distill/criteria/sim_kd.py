"""SimKD: the student reuses the teacher's classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import Arguments
from lit_distill.capture.capture import Capture
from lit_distill.criteria.base import Citation, FeatureCriterion, at_least_float32
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.projectors import SizedProjector
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_whole
from lit_distill.utils.copying import copied
from lit_distill.utils.grids import resize_map, tokens_to_map
from lit_distill.utils.names import hook_key


def sim_kd(projected: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the SimKD loss ([Chen et al. 2022](https://arxiv.org/abs/2203.14001), section 3).

    $$ \mathrm{mean}\,(P(f^s) - f^t)^2 $$

    Args:
        projected: The student's last map before pooling, projected, ``[B, C, H, W]``.
        teacher: The teacher's, with the same channels; a larger one is average-pooled.

    Examples:
        >>> sim_kd(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 1.0]]]]))
        tensor(2.5000)
    """
    return F.mse_loss(projected, resize_map(teacher, (projected.shape[2], projected.shape[3])))


class SimKDProjector(SizedProjector):
    """Brings the student's last map to the teacher's channels by a bottleneck of three convolutions.

    They are 1x1, 3x3 and 1x1, each without bias and followed by batch norm and ReLU, with ``1 / factor`` of the teacher's
    channels in between. A student's map larger than the teacher's is average-pooled first.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], factor: int = 2) -> None:
        super().__init__()
        if len(student) not in (3, 4) or len(teacher) != 4:
            raise ValueError(
                f"SimKD needs maps [B, C, H, W], and the features are {list(student)} and {list(teacher)}. The "
                "teacher's must be the map whose mean its classifier takes; the student's may be tokens."
            )
        width_s, width_t = student[1 if len(student) == 4 else 2], teacher[1]
        middle = max(1, width_t // factor)
        self.size = _smaller(student, teacher)
        self.bottleneck = nn.Sequential(
            *_block(width_s, middle, 1), *_block(middle, middle, 3), *_block(middle, width_t, 1)
        )

    def forward(self, feature: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Map ``[B, C_s, H, W]`` to ``[B, C_t, *size]``, with the smaller size of the two maps."""
        if feature.dim() == 3:
            feature = tokens_to_map(feature, self.size if shape is None else tuple(shape[2:]))
        size = self.size if shape is None else _smaller(feature.shape, shape)
        projected: Tensor = self.bottleneck(resize_map(feature, size))
        return projected


def _smaller(student: Sequence[int], teacher: Sequence[int]) -> tuple[int, int]:
    """Return the size that a pair of maps has in common; the teacher's if the student has tokens."""
    if len(student) == 3:
        return teacher[2], teacher[3]
    return min(student[2], teacher[2]), min(student[3], teacher[3])


def _block(width: int, out: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()


class SimKD(FeatureCriterion):
    r"""The student's last map, projected, against the teacher's, to be used with the teacher's own classifier.

    $$ \mathrm{mean}\,(P(f^s) - f^t)^2 $$ ([Chen et al. 2022](https://arxiv.org/abs/2203.14001)), see ``sim_kd``.

    It compares the maps before pooling; a larger teacher's map is average-pooled. It is the only loss: weight 1, no labels
    and no logits. The student's own classifier is never trained, and its validation accuracy is meaningless: the trained
    network is the student, the projector *and* the teacher's classifier, which ``reuse_classifier`` puts together. The
    projector stays in that network, with its cost (factor 2: ``C_s C_t / 2 + 11 C_t² / 4`` weights); it ends with a ReLU,
    so the teacher's map must not contain negative numbers.

    Args:
        student_layer: The student's last map, or tokens that are a square grid; or ``auto``, the last stage's end.
        teacher_layer: The teacher's last map, the one that its classifier pools.
        factor: The bottleneck's reduction of channels; 2 in the authors' code.

    Raises:
        ValueError: ``factor`` is below 1, or more than one layer is named.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student = Outputs(torch.zeros(2, 2), {"layer3": torch.randn(2, 3, 2, 2)})
        >>> teacher = Outputs(torch.zeros(2, 2), {"layer3": torch.rand(2, 8, 2, 2)})
        >>> round(SimKD("layer3", "layer3")(student, teacher).item(), 1)
        0.6
    """

    citation = Citation(
        "SimKD",
        'Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", CVPR',
        weight=1.0,
        url="https://arxiv.org/abs/2203.14001",
    )
    auto_stages = "last"
    makes_maps = True

    def __init__(self, student_layer: str = AUTO, teacher_layer: str = AUTO, factor: int = 2) -> None:
        super().__init__(student_layer, teacher_layer, project=True)
        self._factor = check_whole("factor", factor, least=1)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the projector; refuse features that are not maps, and references that name several layers."""
        super().build(student, teacher)
        if len(self.pairs) > 1:
            raise ValueError(f"SimKD compares one pair of layers, and {len(self.pairs)} are named.")

    def make_projector(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        return SimKDProjector(student, teacher, self._factor)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        ((projected, feature_t),) = self.pair_features(student, teacher)
        return sim_kd(projected, feature_t)


class ReusedClassifier(nn.Module):
    """The network that SimKD trains: a student's map, projected and pooled, in a teacher's classifier.

    The whole student runs, including its own unused classifier, and the map is captured on the way: between calls no hook is
    on it.

    Args:
        student: The student.
        layer: Its map, a layer reference.
        projector: Maps the student's channels to the teacher's.
        classifier: The teacher's, from the pooled map to logits; frozen here.
    """

    def __init__(self, student: nn.Module, layer: str, projector: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.student, self.projector, self.classifier = student, projector, classifier
        self.classifier.requires_grad_(False)
        self._capture = Capture(student, [layer], owner="student")
        self._capture.store.clone.add(hook_key(layer))  # a later in-place operation may overwrite it
        self._capture.remove()
        self._layer = self._capture.layers[0]

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return logits of the teacher's classes, ``[B, C]``, for the student's inputs."""
        # Registered anew in each call: torch.export puts a module's attributes back as they were, hooks among them.
        self._capture.restore()
        try:
            feature = self._capture.run(Arguments(inputs, named)).features[self._layer]
        finally:
            self._capture.remove()
        logits: Tensor = self.classifier(pooled(self.projector(at_least_float32(feature))))
        return logits


def reuse_classifier(student: nn.Module, criterion: SimKD, classifier: nn.Module) -> ReusedClassifier:
    """Put the network that SimKD has trained together from copies of its parts, in evaluation mode.

    Args:
        student: The trained student.
        criterion: The criterion that it was trained with, which holds the projector.
        classifier: The teacher's classifier, ``teacher.linear``.

    Raises:
        ValueError: The criterion has seen no features yet.
    """
    if not criterion.pairs:
        raise ValueError("this SimKD criterion was never trained, so it has no projector.")
    parts = [copied(part) for part in (student, criterion.projectors[0], classifier)]
    return ReusedClassifier(parts[0], criterion.pairs[0][0], parts[1], parts[2]).eval()
