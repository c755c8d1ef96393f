"""What a record of training steps says of the teacher and of other frozen networks."""

from __future__ import annotations

import math

from lit_distill.doctor.findings import Finding
from lit_distill.doctor.record import Record
from lit_distill.doctor.setup import Setup
from lit_distill.utils.names import listed

_FAR = 1e-3  # relative distance of a teacher's two answers to one batch
_DEVIATIONS = 3.0  # above chance, that a teacher should be
_LEAST_ASKED = 30


def teacher_findings(setup: Setup, record: Record) -> dict[str, list[Finding]]:
    """The checks of frozen networks, the teacher above all, that apply, and what they found."""
    found: dict[str, list[Finding]] = {}
    if record.steps == 0:
        return found
    if record.modes:
        found["teacher_mode"] = _modes(record)
    if record.before:
        found["teacher_drift"] = _drift(record)
    teacher = setup.teacher
    if teacher is not None and teacher.frozen:
        name = f"the teacher ({type(teacher.model).__name__})"
        if record.answers:
            found["teacher_repeats"] = _repeats(record, name)
        if record.asked >= _LEAST_ASKED:
            found["teacher_chance"] = _chance(record, name)
    return found


def _modes(record: Record) -> list[Finding]:
    return [
        Finding(
            "teacher_mode",
            "bug",
            name,
            f"is frozen and runs in training mode ({listed(parts)}): dropout makes its answers random, and BatchNorm uses the "
            "batch's statistics and changes its own.",
            "call model.eval() before every batch, or give the network itself as the teacher, which FrozenTeacher keeps so.",
        )
        for name, parts in record.modes.items()
        if parts
    ]


def _drift(record: Record) -> list[Finding]:
    found = []
    for name, before in record.before.items():
        after = record.after.get(name)
        if after is None:  # it is frozen no more: a callback trains it from some epoch on
            continue
        changed = [tensor for tensor in before if before[tensor] != after.get(tensor)]
        if changed:
            found.append(
                Finding(
                    "teacher_drift",
                    "bug",
                    name,
                    f"is frozen, and {len(changed)} of its {len(before)} tensors changed in {record.steps} steps: "
                    f"{listed(changed)}.",
                    "keep it in evaluation mode (BatchNorm's statistics), out of the optimizer, and apart from the student's "
                    "weights.",
                )
            )
    return found


def _chance(record: Record, name: str) -> list[Finding]:
    chance = 1 / record.classes
    limit = record.asked * chance + _DEVIATIONS * math.sqrt(record.asked * chance * (1 - chance))
    if record.right > limit:
        return []
    return [
        Finding(
            "teacher_chance",
            "warning",
            name,
            f"knows {record.right} of {record.asked} labels ({record.right / record.asked:.1%}), which chance would too "
            f"({chance:.1%}).",
            "was it trained, were its weights loaded, are the classes in its order, and does it get the input size and "
            "normalisation that it was trained with?",
        )
    ]


def _repeats(record: Record, name: str) -> list[Finding]:
    one, two = record.answers
    far = float((one - two).norm() / one.norm().clamp(min=1e-12))
    if far <= _FAR:
        return []
    return [
        Finding(
            "teacher_repeats",
            "bug",
            name,
            f"gives two answers to one batch, which differ by {far:.1%}: something in it is random whatever its mode, such "
            "as F.dropout without training=self.training.",
            "use nn.Dropout, or pass training=self.training.",
        )
    ]
