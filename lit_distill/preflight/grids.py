"""Refuses to read a sequence as a map."""

from __future__ import annotations

from lit_distill.batch.batch import Batch, tensors_of
from lit_distill.criteria import Criterion, FeatureCriterion
from lit_distill.outputs import Outputs


def refuse_sequences(criterion: Criterion, student: Outputs, teacher: Outputs, data: Batch) -> None:
    """Refuse tokens for a criterion that makes maps of them, if the networks are given no images.

    Raises:
        ValueError: The inputs are no images, and a layer of the criterion gives tokens.
    """
    if not isinstance(criterion, FeatureCriterion) or not (criterion.makes_maps or criterion.makes_maps_if_unequal):
        return
    if any(tensor.dim() > 3 for tensor in (*tensors_of(data.inputs), *tensors_of(data.for_teacher))):
        return
    for pair in criterion.pair(student, teacher):
        shapes = [list(outputs.features[name].shape) for name, outputs in zip(pair, (student, teacher), strict=True)]
        if not criterion.makes_maps and shapes[0][1:2] == shapes[1][1:2]:
            continue
        for name, shape in zip(pair, shapes, strict=True):
            if len(shape) == 3:
                raise ValueError(
                    f"{type(criterion).__name__} compares maps [B, C, H, W]; {name} gives {shape}, and the inputs are no "
                    "images, so that its positions are no grid. Take Hint, or TokenRelation if both have as many: they compare "
                    "sequences."
                )
