"""Positions that count: one rule for logits and features, from a mask, lengths, or labels that are unknown.

A mask found by its name that does not fit the logits belongs to other positions (an encoder's, an audio's samples) and is
left out; a mask that the user named is refused then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL, Batch, BatchFormat, tensors_of
from lit_distill.batch.layouts import Layouts
from lit_distill.outputs import Outputs
from lit_distill.utils.grids import split_grid


def settle(
    data: Batch, format_: BatchFormat, student: Outputs, teacher: Outputs | None = None, layouts: Layouts | None = None
) -> tuple[Batch, Outputs, Outputs | None]:
    """Give both networks' outputs the positions and samples that count, at one size, and the batch their mask.

    Raises:
        ValueError: A mask or lengths that the user named do not fit the logits.
    """
    limits = (data.mask, data.lengths, data.sample_weight, student.mask, student.sample_weight)
    limited = any(value is not None for value in limits) or format_.mask_from_labels or format_.resize_logits
    if not limited and isinstance(student.logits, Tensor) and student.logits.dim() < 3:
        return data, student, teacher  # samples and their classes: every position counts
    if layouts is not None and isinstance(data.target, Tensor) and student.has_logits:
        data = replace(data, target=layouts.arrange_target(data.target, student.logits))
    if format_.resize_logits and isinstance(data.target, Tensor):
        student = _resized(student, data.target)
        teacher = _resized(teacher, data.target) if teacher is not None else None
    mask = positions_that_count(data, student, format_.mask_from_labels)
    samples = _known_samples(data, student) if format_.mask_from_labels else None
    if mask is not None and mask.dim() == 1 and data.mask_is_told and student.has_logits:
        samples = mask if samples is None else samples & mask
    if samples is not None:
        return _chosen_samples(data, samples, student, teacher)
    data = replace(data, mask=mask, lengths=None)
    weight = data.sample_weight
    student = replace(student, mask=mask, sample_weight=weight)
    return data, student, replace(teacher, mask=mask, sample_weight=weight) if teacher is not None else None


def settled_logits(data: Batch, format_: BatchFormat, student: Outputs, teacher: Tensor) -> Tensor:
    """Return the teacher's logits at the size and the samples at which the student's are compared."""
    found = settle(data, format_, student, Outputs(teacher))[2]
    return teacher if found is None else found.logits


def input_mask(data: Batch) -> Tensor | None:
    """Return the mask of the inputs' positions, if a mask or lengths show it before any network has run."""
    if data.mask is not None or data.lengths is None:
        return data.mask
    longest = int(data.lengths.max()) if data.lengths.numel() else 0
    inputs = (tensor.shape[1] for tensor in tensors_of(data.inputs) if tensor.dim() > 1)
    count = next((length for length in inputs if length >= longest), longest)
    return torch.arange(count, device=data.lengths.device) < data.lengths.unsqueeze(1)


def positions_that_count(data: Batch, outputs: Outputs, from_labels: bool) -> Tensor | None:
    """Return the mask of a network's positions, or None if all count.

    Raises:
        ValueError: A mask or lengths that the user named do not fit.
    """
    expected = _positions(outputs)
    mask = _from_lengths(data.lengths, outputs) if data.lengths is not None else data.mask
    if mask is not None and mask.dim() > 2 and mask.shape[1] == 1 and expected != mask.shape:
        mask = mask.squeeze(1)
    if mask is not None and expected is not None and mask.shape != expected:
        mask = _without_end(mask, expected)
    if mask is not None and expected is not None and mask.shape != expected:
        fits_features = any(position_mask(mask, feature) is not None for feature in outputs.features.values())
        if data.mask_is_told and fits_features:
            return mask  # such as an encoder's features; a criterion that reads the logits refuses it
        if data.mask_is_told:
            raise ValueError(
                f"the mask {list(mask.shape)} does not fit the logits' positions {list(expected)}; name theirs: "
                "BatchFormat(mask_key=…), a function of the batch perhaps, or mask_key=None for none."
            )
        mask = None
    target = data.target
    if not (from_labels and isinstance(target, Tensor) and not target.is_floating_point() and target.dim() > 1):
        return mask
    known = (target.squeeze(1) if target.dim() > 2 and target.shape[1] == 1 else target) != IGNORED_LABEL
    if expected is not None and known.shape != expected:
        raise ValueError(
            f"mask_from_labels is set, and the labels {list(target.shape)} are not of the logits' positions {list(expected)}."
        )
    return known if mask is None else mask & known


def _without_end(mask: Tensor, expected: torch.Size) -> Tensor:
    """Cut off the columns at a mask's end in which nothing counts, which some networks leave out of their outputs."""
    longer = mask.dim() == 2 and len(expected) == 2 and mask.shape[1] > expected[1]
    return mask[:, : expected[1]] if longer and not bool(mask[:, expected[1] :].any()) else mask


def _known_samples(data: Batch, outputs: Outputs) -> Tensor | None:
    """Return the samples whose label is known, for labels of whole samples; None for labels of positions."""
    target = data.target
    of_positions = outputs.has_logits and outputs.logits.dim() > 2
    if not isinstance(target, Tensor) or target.is_floating_point() or of_positions or not outputs.has_logits:
        return None
    known = target != IGNORED_LABEL
    return known.flatten(1).any(1) if target.dim() > 1 else known


def _positions(outputs: Outputs) -> torch.Size | None:
    """Return the shape of the logits' positions; None for ``[B]`` and ``[B, C]``, whose mask is one of tokens inside."""
    if not outputs.has_logits or outputs.logits.dim() < 3:
        return None
    shape = outputs.logits.shape
    return torch.Size(shape[:-1] if len(shape) == 3 else [shape[0], *shape[2:]])


def _from_lengths(lengths: Tensor, outputs: Outputs) -> Tensor:
    tokens = [feature.shape[1] for feature in outputs.features.values() if feature.dim() == 3]
    logits = outputs.logits.shape[1] if outputs.has_logits and outputs.logits.dim() == 3 else None
    longest = int(lengths.max()) if lengths.numel() else 0
    count = logits if logits is not None else next((n for n in tokens if n >= longest), longest)
    if longest > count:
        raise ValueError(
            f"lengths reach {longest}, and the logits have {count} positions; give the lengths in the logits' positions: "
            "BatchFormat(lengths_key=…), a function of the batch perhaps."
        )
    return torch.arange(count, device=lengths.device) < lengths.unsqueeze(1)


def _chosen_samples(
    data: Batch, mask: Tensor, student: Outputs, teacher: Outputs | None
) -> tuple[Batch, Outputs, Outputs | None]:
    size = len(mask)

    def rows(tensor: Tensor) -> Tensor:
        return tensor[mask] if tensor.dim() and len(tensor) == size else tensor

    def of(outputs: Outputs) -> Outputs:
        features = {name: rows(feature) for name, feature in outputs.features.items()}
        weight = rows(data.sample_weight) if data.sample_weight is not None else None
        return Outputs(rows(outputs.logits) if outputs.has_logits else outputs.logits, features, None, weight)

    if student.logits.dim() and len(student.logits) != size:
        raise ValueError(
            f"the mask [{size}] does not fit the logits {list(student.logits.shape)}; give one value a sample."
        )
    target = data.target
    kept = {name: rows(labels) for name, labels in target.items()} if isinstance(target, Mapping) else target
    kept = rows(kept) if isinstance(kept, Tensor) else kept
    return replace(data, mask=None, target=kept), of(student), of(teacher) if teacher is not None else None


def _resized(outputs: Outputs, target: Tensor) -> Outputs:
    if not outputs.has_logits or outputs.logits.dim() < 3:
        return outputs
    if outputs.logits.dim() == 3:
        return _resized_sequence(outputs, target)
    spatial = outputs.logits.dim() - 2
    size = tuple(target.shape[-spatial:])
    if tuple(outputs.logits.shape[2:]) == size:
        return outputs
    mode = "bilinear" if spatial == 2 else "trilinear"
    logits = outputs.logits if outputs.logits.dtype == torch.float64 else outputs.logits.float()
    return replace(outputs, logits=F.interpolate(logits, size=size, mode=mode, align_corners=False))


def _resized_sequence(outputs: Outputs, target: Tensor) -> Outputs:
    count = target.shape[1]
    if count == outputs.logits.shape[1]:
        return outputs
    steps = outputs.logits if outputs.logits.dtype == torch.float64 else outputs.logits.float()
    return replace(outputs, logits=F.interpolate(steps.mT, size=count, mode="linear", align_corners=False).mT)


def position_mask(mask: Tensor | None, feature: Tensor) -> Tensor | None:
    """Return the mask of a feature's positions.

    Args:
        mask: The batch's, ``[B, T]`` or ``[B, H, W]`` or of volumes; or None.
        feature: Tokens ``[B, N, D]`` or a map ``[B, C, H, W]``, or of volumes; vectors have no positions.

    Returns:
        ``[B, N]``, or ``[B, H, W]`` at the feature's size; a position counts if one that it covers does, and up to 8 tokens
        before the mask's (class, registers) do. None if the mask is of other positions.
    """
    if mask is None or feature.dim() < 3 or len(mask) != len(feature):
        return None
    if feature.dim() == 3:
        return _mask_of_tokens(mask, feature.shape[1])
    if mask.dim() == 2 and feature.shape[-1] == mask.shape[1]:  # time steps of a spectrogram, over all its bands
        return mask.view(len(mask), *[1] * (feature.dim() - 3), -1).expand(len(mask), *feature.shape[2:])
    return covered(mask, tuple(feature.shape[2:])) if mask.dim() == feature.dim() - 1 else None


def _mask_of_tokens(mask: Tensor, count: int) -> Tensor | None:
    if mask.dim() > 2:  # pixels, not patches
        side = split_grid(count)
        if mask.dim() != 3 or side is None:
            return None
        prefix, length = side
        whole = mask.shape[1] * mask.shape[2]
        grid = mask if 0 <= count - whole <= 8 else covered(mask, (length, length))
        mask, prefix = grid.flatten(1), count - grid[0].numel()
        return torch.cat([mask.new_ones(len(mask), prefix), mask], 1)
    before = count - mask.shape[1]
    if 0 <= before <= 8:
        return torch.cat([mask.new_ones(len(mask), before), mask], 1) if before else mask
    return covered(mask, (count,)) if before < 0 else None


def covered(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize a mask ``[B, …]``: a position counts if one that it covers does."""
    if tuple(mask.shape[1:]) == size:
        return mask
    counting = mask.float().unsqueeze(1)
    pools: dict[int, Callable[..., Tensor]] = {
        1: F.adaptive_max_pool1d,
        2: F.adaptive_max_pool2d,
        3: F.adaptive_max_pool3d,
    }
    return pools[len(size)](counting, size).squeeze(1) > 0
