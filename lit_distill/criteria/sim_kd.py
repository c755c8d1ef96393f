"""SimKD: Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", section 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs
from lit_distill.capture.capture import Capture
from lit_distill.criteria.about import About
from lit_distill.criteria.base import FeatureCriterion, at_least_float32
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.projectors import SizedProjector
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_whole
from lit_distill.utils.copying import copied
from lit_distill.utils.grids import resize_map
from lit_distill.utils.names import hook_key


class SimKDProjector(SizedProjector):
    """Brings the student's last map to the teacher's channels by a bottleneck of three convolutions.

    1x1, 3x3 and 1x1, each without bias and followed by batch norm and ReLU; ``1 / factor`` of the teacher's channels in
    between. A student's map larger than the teacher's is average-pooled first.

    Args:
        student: Shape of the student's map, batch included.
        teacher: Shape of the teacher's map, batch included.
        factor: The reduction of the channels, at least 1.

    Raises:
        ValueError: A shape is no map's.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], factor: int = 2) -> None:
        super().__init__()
        if len(student) != 4 or len(teacher) != 4:
            raise ValueError(
                f"SimKD needs maps [B, C, H, W], and the features are {list(student)} and {list(teacher)}."
            )
        width_s, width_t = student[1], teacher[1]
        middle = max(1, width_t // factor)
        self.size = (min(student[2], teacher[2]), min(student[3], teacher[3]))
        self.bottleneck = nn.Sequential(
            *_block(width_s, middle, 1), *_block(middle, middle, 3), *_block(middle, width_t, 1)
        )

    def forward(self, feature: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """``[B, C_s, H, W]`` to ``[B, C_t, *size]``, the smaller of the two maps' sizes."""
        size = self.size
        if shape is not None:
            size = (min(feature.shape[2], shape[2]), min(feature.shape[3], shape[3]))
        projected: Tensor = self.bottleneck(resize_map(feature, size))
        return projected


def _block(width: int, out: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()


class SimKD(FeatureCriterion):
    """The student's last map, projected, against the teacher's, for the teacher's own classifier: mean squared error.

    ``mean (P(f_s) - f_t)²`` over every element, at the map before pooling; a larger teacher's map is
    average-pooled. It is all of the loss: weight 1, no labels and no logits. The student's own classifier then never
    learns, and its accuracy in validation says nothing: what was trained is the student, the projector *and* the teacher's
    classifier, which ``reuse_classifier`` puts together. The projector stays in the network that is used, and its cost
    with it (factor 2: ``C_s C_t / 2 + 11 C_t² / 4`` weights).

    The projector ends with a ReLU, so the teacher's map has to be one that no negative number is in.

    Args:
        student_layer: The student's last map.
        teacher_layer: The teacher's last map, the one that its classifier pools.
        factor: The bottleneck's reduction of channels; 2 in the authors' code.

    Raises:
        ValueError: ``factor`` is below 1, or more than one layer is named.
    """

    about = About(
        "SimKD", 'Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", CVPR', weight=1.0
    )

    def __init__(self, student_layer: str, teacher_layer: str, factor: int = 2) -> None:
        super().__init__(student_layer, teacher_layer, project=True)
        self._factor = check_whole("factor", factor, least=1)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the projector.

        Raises:
            ValueError: A feature is no map, or a reference names several layers.
        """
        super().build(student, teacher)
        if len(self.pairs) > 1:
            raise ValueError(f"SimKD compares one pair of layers, and {len(self.pairs)} are named.")

    def make_projector(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        return SimKDProjector(student, teacher, self._factor)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        ((projected, feature_t),) = self.pair_features(student, teacher)
        return F.mse_loss(projected, resize_map(feature_t, (projected.shape[2], projected.shape[3])))


class ReusedClassifier(nn.Module):
    """A student's map, projected and pooled, in a teacher's classifier: the network that SimKD trains.

    The student runs as a whole, its own classifier for nothing, and the map is read on the way.

    Args:
        student: The student.
        layer: Its map, a layer reference.
        projector: Takes the map to the teacher's channels.
        classifier: The teacher's, from the pooled map to logits; frozen here.
    """

    def __init__(self, student: nn.Module, layer: str, projector: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.student, self.projector, self.classifier = student, projector, classifier
        self.classifier.requires_grad_(False)
        self._capture = Capture(student, [layer], owner="student")
        self._capture.store.clone.add(hook_key(layer))  # a later in-place operation may overwrite it
        self._layer = self._capture.layers[0]

    def forward(self, inputs: Inputs) -> Tensor:
        """The student's inputs to the teacher's classes, ``[B, C]``."""
        feature = self._capture.run(inputs).features[self._layer]
        logits: Tensor = self.classifier(pooled(self.projector(at_least_float32(feature))))
        return logits


def reuse_classifier(student: nn.Module, criterion: SimKD, classifier: nn.Module) -> ReusedClassifier:
    """The network that SimKD has trained, of copies of its parts, in evaluation mode.

    Args:
        student: The trained student.
        criterion: The criterion that it was trained with: it holds the projector.
        classifier: The teacher's classifier, ``teacher.linear``.

    Raises:
        ValueError: The criterion has seen no features yet.
    """
    if not criterion.pairs:
        raise ValueError("this SimKD criterion was never trained, and so has no projector.")
    parts = [copied(part) for part in (student, criterion.projectors[0], classifier)]
    return ReusedClassifier(parts[0], criterion.pairs[0][0], parts[1], parts[2]).eval()
