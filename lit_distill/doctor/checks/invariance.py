"""Checks of what must not change a criterion's value: order, size and padding of the batch, and classes without weight.

Every check takes a subject and gives what it found, or None where it does not apply.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lit_distill.batch.labels import class_dim, positions
from lit_distill.doctor.findings import Finding
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.subject import Subject, close
from lit_distill.outputs import Outputs

_SAME = 1e-3  # relative difference below which two values count as equal
_EXACT = 1e-2  # the same, for a ratio that tells what went wrong
_NOBODY = -100.0  # logit, at temperature 1, of a class that nobody expects
_LEAST = 4


def order(subject: Subject) -> list[Finding] | None:
    """Samples have no order: a batch shuffled in both networks and the labels must have the same value."""
    sample = subject.draw(0)
    if not subject.criterion.needs_teacher or not _by_sample(subject, sample) or subject.is_random():
        return None
    places = torch.randperm(sample.size, generator=torch.Generator().manual_seed(1))
    shuffled = sample.map(lambda tensor: tensor[places])
    before, after = subject.value(sample), subject.value(shuffled)
    if close(before, after, _SAME):
        return []
    return [
        Finding(
            "order",
            "bug",
            subject.where,
            f"is {before:.5g} for a batch and {after:.5g} for the same batch in another order: samples are paired with "
            "their neighbours, or student and teacher are not paired sample by sample.",
            "compare every sample with its own counterpart, or with all the others.",
        )
    ]


def batch_size(subject: Subject) -> list[Finding] | None:
    """The mean over a batch is that of its halves, unless samples are compared with each other."""
    sample = _evenly_masked(subject.draw(0))
    if not _by_sample(subject, sample) or subject.is_random() or subject.raw(sample).dim():
        return None
    half = sample.size // 2
    whole, parts = subject.value(sample), _mean_of_parts(subject, sample, half)
    if close(whole, parts, _SAME):
        return []
    for factor, does in ((2.0, "sums over the batch"), (0.5, "divides by the batch's size twice")):
        if close(whole, factor * parts, _SAME) and close(
            whole, factor**2 * _mean_of_parts(subject, sample, half // 2), _SAME
        ):
            return [
                Finding(
                    "batch_size",
                    "bug",
                    subject.where,
                    f"is {whole:.4g} for {sample.size} samples and {parts:.4g} for {half} of them: it {does}, so that its "
                    "weight changes with the batch size and with the number of processes.",
                    "take the mean over the batch (reduction='batchmean' in F.kl_div).",
                )
            ]
    return [
        Finding(
            "batch_size",
            "warning",
            subject.where,
            f"is {whole:.4g} for {sample.size} samples and {parts:.4g} as the mean over their halves: it compares samples "
            "with each other, or uses the batch's statistics. Each process and each accumulated part counts by itself.",
            "nothing is wrong on one device; keep the batch of one process large, and the same in runs that you compare.",
        )
    ]


def _mean_of_parts(subject: Subject, sample: Sample, size: int) -> float:
    """The mean of the values of the batch's parts; not a number where they do not come out even."""
    if size < 1 or sample.size % size:
        return math.nan
    starts = range(0, sample.size, size)
    return sum(subject.value(sample.part(begin, begin + size)) for begin in starts) / len(starts)


def _by_sample(subject: Subject, sample: Sample) -> bool:
    return sample.size >= _LEAST and not sample.size % 2 and sample.by_sample()


def _evenly_masked(sample: Sample) -> Sample:
    """The sample with the first half's mask for the second half too: a mean over positions weighs by their number."""

    def even(outputs: Outputs) -> Outputs:
        if outputs.mask is None:
            return outputs
        half = len(outputs.mask) // 2
        return replace(outputs, mask=torch.cat([outputs.mask[:half]] * 2))

    if sample.size % 2:
        return sample
    return replace(sample, student=even(sample.student), teacher=even(sample.teacher))


def mask(subject: Subject) -> list[Finding] | None:
    """What both networks say at masked positions must not count."""
    sample = subject.draw(0)
    logits, given = sample.student.logits, sample.student.mask
    if given is None or logits.dim() < 3 or given.shape != positions(logits):
        return None
    hidden = torch.rand(given.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    hidden[:, 0], hidden[0, -1] = False, True
    counts = ~hidden
    sample = replace(sample, student=replace(sample.student, mask=counts), teacher=replace(sample.teacher, mask=counts))
    before, other = subject.value(sample), subject.draw(3)

    def swap(own: Outputs, new: Outputs, logits: bool) -> Outputs:
        if logits:
            at = hidden.unsqueeze(class_dim(own.logits))
            return replace(own, logits=torch.where(at, new.logits, own.logits))
        features = {name: _swap_positions(value, new.features[name], hidden) for name, value in own.features.items()}
        return replace(own, features=features)

    for what, severity in (("logits", "bug"), ("features", "warning")):
        student, teacher = (
            swap(own, new, what == "logits")
            for own, new in ((sample.student, other.student), (sample.teacher, other.teacher))
        )
        after = subject.value(replace(sample, student=student, teacher=teacher))
        if not close(before, after, 1e-6):
            return [
                Finding(
                    "mask",
                    "bug" if severity == "bug" else "warning",
                    subject.where,
                    f"goes from {before:.5g} to {after:.5g} when the {what} at masked positions change: padding is trained on.",
                    "leave masked positions out before the mean: lit_distill.criteria.base.paired_rows and valid_rows do.",
                )
            ]
    return []


def _swap_positions(own: Tensor, new: Tensor, hidden: Tensor) -> Tensor:
    """Other values at the hidden positions of tokens; maps and vectors are left alone."""
    if own.dim() != 3 or own.shape[:2] != hidden.shape:
        return own
    return torch.where(hidden.unsqueeze(-1), new, own)


def classes(subject: Subject) -> list[Finding] | None:
    """Classes of no probability, added to both networks, must not make a divergence smaller: it sums over classes.

    What does not depend on the teacher, such as a term with the labels, is taken out by comparing with two teachers.
    """
    sample = subject.draw(0)
    if not compares_classes(subject, sample) or subject.raw(sample).dim():
        return None
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
    return [
        Finding(
            "classes",
            "bug",
            subject.where,
            "falls to a half when classes of no probability double the number of classes: it is a mean over classes, so "
            "that its gradient is smaller by the number of classes than the paper's.",
            "sum over classes and take the mean over samples: reduction='batchmean', not 'mean'.",
        )
    ]


def _rises(subject: Subject) -> bool:
    """Whether the value grows as the logits of networks that disagree do, ten times, as a divergence does."""
    growth = []
    for scale in (6.0, 60.0):
        sample = subject.draw(0, scale)
        opposite = replace(sample, teacher=replace(sample.teacher, logits=-sample.student.logits))
        same = replace(sample, teacher=replace(sample.teacher, logits=sample.student.logits))
        growth.append(subject.value(opposite) - subject.value(same))
    return 3 * abs(growth[0]) < abs(growth[1]) < 30 * abs(growth[0])  # a squared error grows a hundred times


def compares_classes(subject: Subject, sample: Sample) -> bool:
    """Whether it compares both networks' logits, of two classes or more, and reads nothing else."""
    student, teacher = sample.student.logits, sample.teacher.logits
    reads = subject.criterion.needs_teacher and not subject.reads_layers
    multiclass = student.dim() > 1 and student.shape[class_dim(student)] > 1
    return reads and multiclass and student.shape == teacher.shape and not subject.is_random()


def _with_more_classes(sample: Sample, times: int, subject: Subject) -> Sample:
    temperature = getattr(subject.criterion, "temperature", None)
    low = _NOBODY * (max(1.0, float(temperature)) if isinstance(temperature, (int, float)) else 4.0)

    def more(outputs: Outputs) -> Outputs:
        none = torch.full_like(outputs.logits, low)
        return replace(outputs, logits=torch.cat([outputs.logits, *[none] * (times - 1)], class_dim(outputs.logits)))

    target = sample.target
    if isinstance(target, Tensor) and target.shape == sample.student.logits.shape:  # probabilities: 0 for the new ones
        target = torch.cat([target, *[torch.zeros_like(target)] * (times - 1)], class_dim(sample.student.logits))
    return Sample(more(sample.student), more(sample.teacher), target)


def softmax(subject: Subject) -> list[Finding] | None:
    """A softmax over classes does not see a number added to all classes of a position; one over another dimension does."""
    sample = subject.draw(0)
    if not compares_classes(subject, sample):
        return None
    logits = sample.student.logits
    right = class_dim(logits)
    before = subject.value(sample)
    seen = []
    for dim in range(logits.dim()):
        if logits.shape[dim] > 1 and close(
            before, subject.value(replace(sample, teacher=_shift(sample.teacher, dim))), 1e-6
        ):
            seen.append(dim)
    if right in seen or not seen:
        return []
    meant = "about" in vars(type(subject.criterion))  # a published method is taken at its word
    names = {2: "[B, C]", 3: "[B, T, C]", 4: "[B, C, H, W]"}.get(logits.dim(), "[B, C, D, H, W]")
    return [
        Finding(
            "softmax",
            "warning" if meant else "bug",
            subject.where,
            f"takes its softmax over dimension {seen[0]} of logits {names}; the classes are dimension {right}.",
            f"softmax(…, dim={right}), or lay the logits out as rows first: lit_distill.criteria.base.valid_rows.",
        )
    ]


def _shift(outputs: Outputs, dim: int) -> Outputs:
    """A number added to the logits, the same along a dimension and another everywhere else."""
    shape = [1 if d == dim else size for d, size in enumerate(outputs.logits.shape)]
    shift = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=outputs.logits.dtype)
    return replace(outputs, logits=outputs.logits + 2 * shift)


def length(subject: Subject) -> list[Finding] | None:
    """Twice the same positions must have the same value: it is a mean over them."""
    sample = subject.draw(0)
    if sample.student.logits.dim() < 3 or not compares_classes(subject, sample) or subject.raw(sample).dim():
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
    return [
        Finding(
            "length",
            "warning",
            subject.where,
            "doubles when every position is there twice: it sums over positions, so that long sequences and large images "
            "weigh more, and the weight depends on their size.",
            "take the mean over positions that count: lay the logits out as rows first (paired_rows), then 'batchmean'.",
        )
    ]
