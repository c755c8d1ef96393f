"""Checks of the teacher and of other frozen networks."""

from __future__ import annotations

import math

from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.observations import TrialFit
from lit_distill.utils.names import listed

_FAR = 1e-3  # relative distance between a teacher's two answers to one batch
_DEVIATIONS = 3.0  # above chance, that a teacher should be
_LEAST_LABELS = 30


@check("teacher_mode", "a frozen teacher runs in evaluation mode")
def teacher_mode(trial: TrialFit) -> list[Finding] | None:
    """Bug if a frozen teacher, or another frozen network of the module, runs in training mode: dropout, batch statistics."""
    if not trial.seen.steps or not trial.seen.modes:
        return None
    found = []
    for name, parts in trial.seen.modes.items():
        if parts:
            found += bug(
                name,
                f"is frozen and runs in training mode ({listed(parts)}): dropout makes its answers random, and BatchNorm uses "
                "the batch's statistics and changes its own.",
                "call model.eval() before every batch, or give the network itself as the teacher, which FrozenTeacher keeps "
                "so.",
            )
    return found


@check("teacher_drift", "a frozen teacher's parameters and buffers stay as they were")
def teacher_drift(trial: TrialFit) -> list[Finding] | None:
    """Bug if a parameter or buffer of a frozen teacher changed, bit for bit; usually BatchNorm's statistics."""
    seen, found = trial.seen, []
    if not seen.steps or not seen.before:
        return None
    for name, before in seen.before.items():
        after = seen.after.get(name)
        if after is None:  # no longer frozen: a callback trains it from some epoch on
            continue
        changed = [tensor for tensor in before if before[tensor] != after.get(tensor)]
        if changed:
            found += bug(
                name,
                f"is frozen, and {len(changed)} of its {len(before)} tensors changed in {seen.steps} steps: {listed(changed)}.",
                "keep it in evaluation mode (BatchNorm's statistics), out of the optimizer, and apart from the student's "
                "weights.",
            )
    return found


@check("teacher_repeats", "a frozen teacher gives the same answer for the same batch")
def teacher_repeats(trial: TrialFit) -> list[Finding] | None:
    """Bug if a frozen teacher in evaluation mode gives two answers to one batch (``F.dropout`` drops in every mode)."""
    name = _frozen_teacher(trial)
    if name is None or not trial.seen.steps or not trial.seen.answers:
        return None
    one, two = trial.seen.answers
    far = float((one - two).norm() / one.norm().clamp(min=1e-12))
    if far <= _FAR:
        return []
    return bug(
        name,
        f"gives two answers to one batch, which differ by {far:.1%}: something in it is random whatever its mode, such "
        "as F.dropout without training=self.training.",
        "use nn.Dropout, or pass training=self.training.",
    )


@check("teacher_chance", "the teacher knows more of the labels than chance")
def teacher_chance(trial: TrialFit) -> list[Finding] | None:
    """Warning if the teacher gets no more labels right than chance: not trained, not loaded, other classes."""
    name, seen = _frozen_teacher(trial), trial.seen
    if name is None or not seen.steps or seen.labels < _LEAST_LABELS:
        return None
    chance = 1 / seen.classes
    if seen.right > seen.labels * chance + _DEVIATIONS * math.sqrt(seen.labels * chance * (1 - chance)):
        return []
    return warning(
        name,
        f"knows {seen.right} of {seen.labels} labels ({seen.right / seen.labels:.1%}), which chance would too ({chance:.1%}).",
        "was it trained, were its weights loaded, are the classes in its order, and does it get the input size and "
        "normalisation that it was trained with?",
    )


def _frozen_teacher(trial: TrialFit) -> str | None:
    teacher = trial.setup.teacher
    return f"the teacher ({type(teacher.model).__name__})" if teacher is not None and teacher.frozen else None
