"""Checks of the batch: its order, size and padding must not change a criterion's value."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lit_distill.batch.labels import class_dim, positions
from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.subject import Subject, close
from lit_distill.outputs import Outputs

_SAME = 1e-3  # relative difference below which two values count as equal
_LEAST = 4


@check("order", "the order of the batch does not matter")
def order(subject: Subject) -> list[Finding] | None:
    """Bug if the batch, shuffled in both networks and the labels, has another value."""
    sample = subject.draw(0)
    if not subject.criterion.needs_teacher or not _halves(sample) or subject.is_random():
        return None
    places = torch.randperm(sample.size, generator=torch.Generator().manual_seed(1))
    shuffled = sample.map(lambda tensor: tensor[places])
    before, after = subject.value(sample), subject.value(shuffled)
    if close(before, after, _SAME):
        return []
    return bug(
        subject.where,
        f"is {before:.5g} for a batch and {after:.5g} for the same batch in another order: samples are paired with "
        "their neighbours, or student and teacher are not paired sample by sample.",
        "compare every sample with its own counterpart, or with all the others.",
    )


@check("batch_size", "the batch's size, and so the number of processes, does not matter")
def batch_size(subject: Subject) -> list[Finding] | None:
    """Bug if it sums over the batch, or divides twice by its size.

    Warning if its value is not the mean over the batch's halves (relations, batch statistics), so that it changes with the
    number of processes.
    """
    sample = subject.draw(0)
    if not _halves(sample) or subject.is_random() or subject.raw(sample).dim():
        return None
    sample = _evenly_masked(sample)
    half = sample.size // 2
    whole, parts = subject.value(sample), _mean_of_parts(subject, sample, half)
    if close(whole, parts, _SAME):
        return []
    for factor, does in ((2.0, "sums over the batch"), (0.5, "divides by the batch's size twice")):
        if close(whole, factor * parts, _SAME) and close(
            whole, factor**2 * _mean_of_parts(subject, sample, half // 2), _SAME
        ):
            return bug(
                subject.where,
                f"is {whole:.4g} for {sample.size} samples and {parts:.4g} for {half} of them: it {does}, so that its "
                "weight changes with the batch size and with the number of processes.",
                "take the mean over the batch (reduction='batchmean' in F.kl_div).",
            )
    return warning(
        subject.where,
        f"is {whole:.4g} for {sample.size} samples and {parts:.4g} as the mean over their halves: it compares samples "
        "with each other, or uses the batch's statistics. Each process and each accumulated part counts by itself.",
        "nothing is wrong on one device; keep the batch of one process large, and the same in runs that you compare.",
    )


def _mean_of_parts(subject: Subject, sample: Sample, size: int) -> float:
    """Return the mean of the values of the batch's parts; NaN if they differ in size."""
    if size < 1 or sample.size % size:
        return math.nan
    starts = range(0, sample.size, size)
    return sum(subject.value(sample.part(begin, begin + size)) for begin in starts) / len(starts)


def _halves(sample: Sample) -> bool:
    return sample.size >= _LEAST and not sample.size % 2 and sample.by_sample()


def _evenly_masked(sample: Sample) -> Sample:
    """Give the second half the first half's mask: a mean over positions weighs by their number."""

    def even(outputs: Outputs) -> Outputs:
        if outputs.mask is None:
            return outputs
        half = len(outputs.mask) // 2
        return replace(outputs, mask=torch.cat([outputs.mask[:half]] * 2))

    return replace(sample, student=even(sample.student), teacher=even(sample.teacher))


@check("mask", "masked positions do not count")
def mask(subject: Subject) -> list[Finding] | None:
    """Bug if logits at masked positions change the value. Warning if features at masked positions do."""
    sample = subject.draw(0)
    logits, given = sample.student.logits, sample.student.mask
    if given is None or logits.dim() < 3 or given.shape != positions(logits):
        return None
    hidden = torch.rand(given.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    hidden[:, 0], hidden[0, -1] = False, True
    counts = ~hidden
    sample = replace(sample, student=replace(sample.student, mask=counts), teacher=replace(sample.teacher, mask=counts))
    before, other = subject.value(sample), subject.draw(3)

    def swapped(own: Outputs, new: Outputs) -> dict[str, Outputs]:
        at = hidden.unsqueeze(class_dim(own.logits))
        features = {name: _swap_positions(value, new.features[name], hidden) for name, value in own.features.items()}
        logits = torch.where(at, new.logits, own.logits)
        return {"logits": replace(own, logits=logits), "features": replace(own, features=features)}

    student, teacher = swapped(sample.student, other.student), swapped(sample.teacher, other.teacher)
    for what, finding in (("logits", bug), ("features", warning)):
        after = subject.value(replace(sample, student=student[what], teacher=teacher[what]))
        if not close(before, after, 1e-6):
            return finding(
                subject.where,
                f"goes from {before:.5g} to {after:.5g} when the {what} at masked positions change: padding is trained on.",
                "leave masked positions out before the mean: lit_distill.criteria.ops.rows.paired_rows and valid_rows do.",
            )
    return []


def _swap_positions(own: Tensor, new: Tensor, hidden: Tensor) -> Tensor:
    """Put other values at the hidden positions of tokens; maps and vectors stay as they are."""
    if own.dim() != 3 or own.shape[:2] != hidden.shape:
        return own
    return torch.where(hidden.unsqueeze(-1), new, own)
