"""Checks of a criterion's formula: its shape, its gradient, its sign, and where it is smallest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lit_distill.doctor.checks.batch import batch_size
from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.subject import Subject, close

_DRAWS = 4
_STEP = 1e-3  # relative step of a finite difference
_OFF = 0.1  # relative error that a derivative may have
_SLOPE = 1e-2  # of the gradient's norm at random outputs
_LOWER = 1e-3  # of the range of values at random; a larger difference counts


@check("scalar", "every criterion is one number")
def scalar(subject: Subject) -> list[Finding] | None:
    """Bug if it returns a tensor of several numbers."""
    shape = list(subject.raw(subject.draw(0)).shape)
    if not shape:
        return []
    return bug(
        subject.where,
        f"returns a tensor of shape {shape}, of which the sum would be taken, and so a multiple of its mean.",
        "return a scalar, the mean over the batch: .mean().",
    )


@check("gradient", "every criterion's gradient is that of its value")
def gradient(subject: Subject) -> list[Finding] | None:
    """Bug if it has no gradient, or none for a layer that it depends on (``detach``, ``torch.tensor`` of losses).

    Warning if a part of the value has none.
    """
    sample = subject.draw(0)
    value, slopes = subject.slopes(sample)
    moving = subject.moved_by(sample)
    if all(slope is None for slope in slopes.values()):
        if not moving and not subject.criterion.needs_teacher:
            return None
        return _cut(subject, "the student's outputs", "its value has no gradient at all, so that it trains nothing")
    if not subject.criterion.needs_teacher or subject.is_random():
        return []  # a network that teaches itself is cut from its own graph on purpose
    dead = [name for name in moving if _is_dead(slopes[name])]
    if dead:
        names = ", ".join("the student's logits" if name == "logits" else f"layer {name!r}" for name in dead)
        return _cut(subject, names, "the value depends on it, and no gradient comes back")
    errors = [_miss(subject, subject.draw(seed), seed) for seed in (1, 2, 3)]
    if min(errors) <= _OFF or not math.isfinite(float(value)):
        return []
    return warning(
        subject.where,
        f"the gradient misses the slope of the value by {min(errors):.0%} or more: part of the student's side is cut "
        "from the graph (detach, no_grad, .item(), torch.tensor of a loss).",
        "compute every term that is to train the student on tensors with gradients; it is right as it is if that "
        "part is a weight or a target.",
    )


def _is_dead(slope: Tensor | None) -> bool:
    return slope is None or not bool(slope.abs().sum() > 0)


def _cut(subject: Subject, where: str, found: str) -> list[Finding]:
    return bug(
        f"{subject.where}, {where}",
        f"{found}: the student's side is detached, or the value was rebuilt (torch.tensor of losses, .item()).",
        "put the terms together with + or torch.stack, and detach only the teacher's side.",
    )


def _miss(subject: Subject, sample: Sample, seed: int) -> float:
    """Return the relative error of the derivative along a random direction against a finite difference; 0 if both are small."""
    generator = torch.Generator().manual_seed(seed)
    _, slopes = subject.slopes(sample)
    inputs = sample.inputs()
    ahead: dict[str, Tensor] = {}
    back: dict[str, Tensor] = {}
    slope = 0.0
    for name, value in inputs.items():
        way = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        found = slopes[name]
        if found is not None:  # mostly along the gradient, which stands out in many dimensions
            way = way / way.norm() + 3 * found / found.norm().clamp(min=1e-30)
            way = way * value.norm().clamp(min=1e-6) / way.norm()
            slope += float((found * way).sum())
        ahead[name], back[name] = value + _STEP * way, value - _STEP * way
    rise = subject.value(sample.with_inputs(ahead)) - subject.value(sample.with_inputs(back))
    difference = rise / (2 * _STEP)
    largest = max(abs(difference), abs(slope))
    if not math.isfinite(largest) or largest * _STEP < 1e-6 * abs(subject.value(sample)):
        return 0.0
    return abs(difference - slope) / largest


@check("sign", "matching the teacher is better than random outputs")
def sign(subject: Subject) -> list[Finding] | None:
    """Bug if it is larger for a student equal to the teacher than at random: in all outputs, the logits, or one layer."""
    same = subject.alike
    if same is None or same.raw(same.draw(0)).dim():
        return None
    sample = same.as_teacher(same.draw(0, right=1.0))
    lowest = same.value(sample)
    others = [same.draw(seed).inputs() for seed in range(1, _DRAWS + 1)]
    names = list(sample.inputs())
    # Under a projector that was drawn at random, the teacher's outputs are as good as others: allow for chance.
    margin = 5 if same.learns else 1
    for varied in [names, *([name] for name in names if len(names) > 1)]:
        values = [same.value(sample.with_inputs({name: inputs[name] for name in varied})) for inputs in others]
        if lowest > max(values) + margin * (max(values) - min(values)) + 1e-6 * (1 + abs(lowest)):
            what = "outputs" if varied is names else "logits" if varied == ["logits"] else f"layer {varied[0]!r}"
            return bug(
                subject.where,
                f"is {lowest:.4g} if the student's {what} are the teacher's, and {min(values):.4g} to {max(values):.4g} if "
                "they are random: training drives the student away from the teacher.",
                "turn the sign of the term that compares them; subtract a similarity (1 - similarity).",
            )
    return []


@check("minimum", "nothing is better than matching the teacher")
def minimum(subject: Subject) -> list[Finding] | None:
    """Bug if, without labels, something else is better than matching the teacher.

    Probabilities instead of logs, or a temperature on one side, cause it. Warning if it compares samples with each other.
    """
    if subject.criterion.needs_target or not subject.criterion.minimum_at_teacher:
        return None
    same = subject.alike
    if same is None or same.learns or same.is_random() or same.raw(same.draw(0)).dim():
        return None
    sample = same.as_teacher(same.draw(0, scale=1.0))
    louder = replace(sample, teacher=replace(sample.teacher, logits=2 * sample.teacher.logits))
    if not same.reads_layers and close(same.value(louder), same.value(sample), 1e-6):
        return None  # it reads which class the teacher takes, and not its distribution
    value, slopes = same.slopes(sample)
    _, usual = same.slopes(same.draw(1, scale=1.0))
    steep, often = _norm(slopes), _norm(usual)
    if not math.isfinite(steep) or steep <= _SLOPE * often:
        return []
    values = [same.value(same.draw(seed, scale=1.0)) for seed in range(1, _DRAWS + 1)]
    values.append(float(value))
    reach = _LOWER * (max(values) - min(values))
    lower = min(same.value(_downhill(sample, slopes, share)) for share in (0.03, 0.1, 0.3, 1.0))
    if not lower < float(value) - max(reach, 1e-9) or close(lower, float(value), 1e-6):
        return []
    return (warning if batch_size(subject) else bug)(  # a criterion that contrasts samples may intend it
        subject.where,
        f"is {float(value):.4g} for a student like the teacher, and {lower:.4g} a little way off (the gradient "
        f"there is {steep / often:.0%} of what it is at random): the best student is not like the teacher.",
        "treat both sides alike (the temperature, the normalisation; F.kl_div takes log-probabilities first). If it is "
        "intended, set minimum_at_teacher = False in the criterion's class.",
    )


def _norm(slopes: Mapping[str, Tensor | None]) -> float:
    return math.sqrt(sum(float(slope.pow(2).sum()) for slope in slopes.values() if slope is not None))


def _downhill(sample: Sample, slopes: Mapping[str, Tensor | None], share: float) -> Sample:
    moved = {}
    for name, value in sample.inputs().items():
        slope = slopes[name]
        if slope is not None and slope.norm() > 0:
            moved[name] = value - share * value.norm() * slope / slope.norm()
    return sample.with_inputs(moved)
