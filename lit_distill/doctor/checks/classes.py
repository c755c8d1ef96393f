"""Checks of classes and positions: how a criterion reduces over them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lit_distill.batch.labels import class_dim, positions
from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.subject import Subject, close
from lit_distill.outputs import Outputs

_SAME = 1e-3  # relative difference below which two values count as equal
_EXACT = 1e-2  # the same, for a ratio that shows what went wrong
_IMPOSSIBLE = -100.0  # logit, at temperature 1, of a class that has no probability


@check("classes", "classes of no probability do not count")
def classes(subject: Subject) -> list[Finding] | None:
    """Bug if a divergence is a mean over classes (``reduction='mean'``): half as large with twice the classes."""
    sample = subject.draw(0)
    if not subject.compares_classes(sample) or subject.raw(sample).dim():
        return None
    # What does not depend on the teacher, such as a term with the labels, cancels between two teachers.
    other = replace(sample, teacher=subject.draw(4).teacher)
    shifted = replace(sample, student=_shift(sample.student, class_dim(sample.student.logits)))
    if not close(subject.value(sample), subject.value(shifted), 1e-4):
        return None  # not made of a softmax
    if not _rises(subject):
        return None  # a distance of probabilities or of logits, of which some take the mean
    found = []
    for times in (1, 2, 4):
        few, many = (_with_more_classes(of, times, subject) for of in (sample, other))
        found.append(subject.value(few) - subject.value(many))
    if found[0] == 0 or not close(found[1], found[0] / 2, _EXACT) or not close(found[2], found[0] / 4, _EXACT):
        return []
    return bug(
        subject.where,
        "falls to a half when classes of no probability double the number of classes: it is a mean over classes, so "
        "that its gradient is smaller by the number of classes than the paper's.",
        "sum over classes and take the mean over samples: reduction='batchmean', not 'mean'.",
    )


def _rises(subject: Subject) -> bool:
    """Return True if the value grows tenfold with tenfold logits of networks that disagree, as a divergence does."""
    growth = []
    for scale in (6.0, 60.0):
        opposite = subject.draw_opposite(scale)
        same = replace(opposite, teacher=replace(opposite.teacher, logits=opposite.student.logits))
        growth.append(subject.value(opposite) - subject.value(same))
    return 3 * abs(growth[0]) < abs(growth[1]) < 30 * abs(growth[0])  # a squared error grows a hundred times


def _with_more_classes(sample: Sample, times: int, subject: Subject) -> Sample:
    temperature = subject.criterion.temperature
    low = _IMPOSSIBLE * (max(1.0, float(temperature)) if isinstance(temperature, (int, float)) else 4.0)

    def more(outputs: Outputs) -> Outputs:
        none = torch.full_like(outputs.logits, low)
        return replace(outputs, logits=torch.cat([outputs.logits, *[none] * (times - 1)], class_dim(outputs.logits)))

    target = sample.target
    if isinstance(target, Tensor) and target.shape == sample.student.logits.shape:  # probabilities: 0 for the new ones
        target = torch.cat([target, *[torch.zeros_like(target)] * (times - 1)], class_dim(sample.student.logits))
    return Sample(more(sample.student), more(sample.teacher), target)


@check("softmax", "probabilities sum to 1 over the classes")
def softmax(subject: Subject) -> list[Finding] | None:
    """Bug if the softmax runs over a dimension other than the classes. Warning for a published method, which may intend it."""
    sample = subject.draw(0)
    if not subject.compares_classes(sample):
        return None
    logits = sample.student.logits
    right = class_dim(logits)
    before = subject.value(sample)
    # A number that is added to all classes of a position cancels in a softmax over classes.
    shifted = {
        dim: subject.value(replace(sample, teacher=_shift(sample.teacher, dim)))
        for dim in range(logits.dim())
        if logits.shape[dim] > 1
    }
    seen = [dim for dim, value in shifted.items() if close(before, value, 1e-6)]
    if right in seen or not seen:
        return []
    meant = "citation" in vars(type(subject.criterion))  # a published method is taken at its word
    names = {2: "[B, C]", 3: "[B, T, C]", 4: "[B, C, H, W]"}.get(logits.dim(), "[B, C, D, H, W]")
    return (warning if meant else bug)(
        subject.where,
        f"takes its softmax over dimension {seen[0]} of logits {names}; the classes are dimension {right}.",
        f"softmax(…, dim={right}), or lay the logits out as rows first: lit_distill.criteria.ops.rows.valid_rows.",
    )


def _shift(outputs: Outputs, dim: int) -> Outputs:
    shape = [1 if d == dim else size for d, size in enumerate(outputs.logits.shape)]
    shift = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=outputs.logits.dtype)
    return replace(outputs, logits=outputs.logits + 2 * shift)


@check("length", "the number of positions does not matter")
def length(subject: Subject) -> list[Finding] | None:
    """Warning if it sums over positions: long sequences weigh more (``batchmean`` of ``[B, T, C]`` divides by B only)."""
    sample = subject.draw(0)
    if sample.student.logits.dim() < 3 or not subject.compares_classes(sample) or subject.raw(sample).dim():
        return None
    dim = 2 if sample.student.logits.dim() >= 4 else 1

    def twice(outputs: Outputs) -> Outputs:
        fits = outputs.mask is not None and outputs.mask.shape == positions(outputs.logits)
        doubled = torch.cat([outputs.mask] * 2, 1) if outputs.mask is not None and fits else outputs.mask
        return replace(outputs, logits=torch.cat([outputs.logits] * 2, dim), mask=doubled)

    target = sample.target
    if isinstance(target, Tensor) and target.shape == positions(sample.student.logits):
        target = torch.cat([target] * 2, 1)
    elif isinstance(target, Tensor) and target.shape == sample.student.logits.shape:
        target = torch.cat([target] * 2, dim)
    before = subject.value(sample)
    after = subject.value(Sample(twice(sample.student), twice(sample.teacher), target))
    if not close(after, 2 * before, _SAME):
        return []
    return warning(
        subject.where,
        "doubles when every position is there twice: it sums over positions, so that long sequences and large images "
        "weigh more, and the weight depends on their size.",
        "take the mean over positions that count: lay the logits out as rows first (paired_rows), then 'batchmean'.",
    )
