"""Checks of a criterion's numbers: what overflows, what hides it, and what a setting does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.subject import Subject, close

_LARGE = (200.0, 1e4)
_RISING = (3.0, 10.0)  # at which nothing overflows yet
_SMALL = 0.05  # logits at which a softmax is a straight line
_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
_FALL = (40.0, 100.0)  # of the gradient from T = 1 to 8 if T² is missing: it is 64
_JUMP = 2.0
_NUDGE = 1e-3


@check("finite", "values and gradients are finite, also at large logits and where the two networks agree")
def finite(subject: Subject) -> list[Finding] | None:
    """Bug if value or gradient is not finite at logits of ±200 or ±1e4, or where both networks agree (the root of 0).

    It is tried in float32 and in the Trainer's half precision.
    """
    for dtype in [torch.float32, *sorted(subject.halves, key=str)]:
        for training in (False, True):
            for place, tried, sample in _places(subject):
                value, slopes = tried.slopes(sample.to(dtype), training)
                broken = "value" if not bool(torch.isfinite(value)) else "gradient" if _broken(slopes) else None
                if broken is not None:
                    return _not_finite(subject, place, dtype, broken, value)
    return []


def _places(subject: Subject) -> Iterator[tuple[str, Subject, Sample]]:
    for scale in _LARGE:
        yield f"at logits of ±{scale:g}", subject, subject.draw(0, scale)
    same = subject.alike
    if same is not None:
        yield "where the student is as the teacher", same, same.as_teacher(same.draw(0))


def _broken(slopes: dict[str, Tensor | None]) -> bool:
    return not all(slope is None or bool(torch.isfinite(slope).all()) for slope in slopes.values())


def _not_finite(subject: Subject, place: str, dtype: torch.dtype, broken: str, value: Tensor) -> list[Finding]:
    kind = str(dtype).removeprefix("torch.")
    return bug(
        subject.where,
        f"its {broken} is not finite {place} in {kind} (the value is {float(value):g}).",
        "widen to float32 first (at_least_float32), stay in log space (F.log_softmax, not the log of a softmax), and keep "
        "roots and divisions away from 0 (clamp, eps).",
    )


@check("hidden_nan", "large logits that differ do not count as equal")
def hidden_nan(subject: Subject) -> list[Finding] | None:
    """Bug if it is exactly 0 without a gradient at large logits that disagree: an overflow was replaced by 0."""
    sample = subject.draw(0)
    reads = subject.criterion.needs_teacher and sample.teacher.logits.shape == sample.student.logits.shape
    if not reads or "logits" not in subject.moved_by(sample):
        return None
    usual, larger = (subject.value(subject.draw_opposite(scale)) for scale in _RISING)
    if usual == 0 or abs(larger) < abs(usual) / 2:
        return []  # 0 may be right: what it compares agrees if both networks are certain
    for scale in _LARGE:
        value, slopes = subject.slopes(subject.draw_opposite(scale).to(torch.float32), wanted=["logits"])
        slope = slopes["logits"]
        if float(value) == 0 and (slope is None or not bool((slope != 0).any())):
            return bug(
                subject.where,
                f"is {usual:.4g} at usual logits, and exactly 0 without a gradient at opposite logits of "
                f"±{scale:g}: an overflow is replaced by 0, and training stops teaching without a word.",
                "take the replacement out (nan_to_num, torch.where of isnan) and compute in log space: F.log_softmax.",
            )
    return []


@check("temperature", "gradients keep their size as the temperature rises")
def temperature(subject: Subject) -> list[Finding] | None:
    """Bug if the gradient falls as 1 / T², because T² is missing. Warning if T is 1 now."""
    name = _temperature_of(subject)
    if name is None or not subject.criterion.minimum_at_teacher or not subject.compares_classes(subject.draw(0)):
        return None
    now = float(getattr(subject.criterion, name))
    sample = subject.draw(0, _SMALL)
    # What does not depend on the teacher, such as a term with the labels, cancels between two teachers.
    other = replace(sample, teacher=subject.draw(1, _SMALL).teacher)
    sizes = []
    for value in _TEMPERATURES:
        changed = subject.set(name, value)
        slopes = [changed.slopes(of, wanted=["logits"])[1]["logits"] for of in (sample, other)]
        if slopes[0] is None or slopes[1] is None:
            return None
        sizes.append(float((slopes[0] - slopes[1]).norm()))
    if sizes[-1] <= 0 or not _FALL[0] < sizes[0] / sizes[-1] < _FALL[1]:
        return []
    return (warning if now == 1 else bug)(
        subject.where,
        f"its gradient falls to 1/{sizes[0] / sizes[-1]:.0f} from T = 1 to T = 8, as 1 / T² (the temperature is {now:g}, "
        f"so that it is {now**2:.3g} times too small): the soft target hardly counts next to the labels.",
        "multiply the divergence by temperature ** 2 (Hinton et al. 2015, section 2).",
    )


def _temperature_of(subject: Subject) -> str | None:
    criterion = subject.criterion
    for name in ("temperature", "temp", "tau", "T"):
        now = getattr(criterion, name, None)
        if not isinstance(now, (int, float)) or isinstance(now, bool) or now <= 0:
            continue
        # If T² was computed beforehand, changing T would not change it.
        square = now != 1 and any(isinstance(v, (int, float)) and v == now**2 for v in vars(criterion).values())
        try:
            changed = getattr(subject.set(name, 2.5).criterion, name)
        except (AttributeError, TypeError, ValueError):
            continue
        if changed == 2.5 and not square:
            return name
    return None


@check("jump", "a small change of a setting is a small change of the value")
def jump(subject: Subject) -> list[Finding] | None:
    """Warning if a setting changed by a thousandth doubles or halves the value, so that it is a special case."""
    settings = {
        name: value
        for name, value in vars(subject.criterion).items()
        if isinstance(value, float) and not name.startswith("_")
    }
    if not settings or subject.is_random():
        return None
    sample = subject.draw(0)
    before = subject.value(sample)
    for name, value in settings.items():
        for nudge in (_NUDGE, -_NUDGE):
            changed = value + nudge * (abs(value) or 1.0)
            try:
                after = subject.set(name, changed).value(sample)
            except (ValueError, RuntimeError, ZeroDivisionError):
                continue
            larger, smaller = max(abs(before), abs(after)), min(abs(before), abs(after))
            if math.isfinite(larger) and larger > 1e-6 and larger > _JUMP * smaller and not close(before, after, 0.5):
                return warning(
                    f"{subject.where}, {name}",
                    f"is {before:.4g} at {name} = {value:g} and {after:.4g} at {changed:g}: that value is a special case.",
                    "make the formula go over into it, or take a value that is well away from it.",
                )
    return []
