"""What the doctor found, and how it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["bug", "warning"]

# Every check by its name, in the order of the report, and what holds where it finds nothing.
CHECKS = {
    "run": "the set-up trains",
    "set_up": "nothing of the set-up runs another way than its user may think",
    "teacher_mode": "a frozen teacher runs in evaluation mode",
    "teacher_drift": "a frozen teacher's parameters and buffers stay as they were",
    "teacher_repeats": "a frozen teacher says the same of the same batch",
    "teacher_chance": "the teacher knows more of the labels than chance",
    "optimizer": "the optimizers hold all that trains, and nothing else",
    "unregistered": "every tensor that the loss differentiates is a parameter that an optimizer holds",
    "reached": "every trainable parameter gets a gradient",
    "moves": "every parameter that gets a gradient moves",
    "balance": "no weighted criterion pulls 100 times harder than another",
    "cost": "no criterion costs more than the student's own step",
    "scalar": "every criterion is one number",
    "gradient": "every criterion's gradient is that of its value",
    "sign": "being as the teacher is better than being at random",
    "minimum": "nothing is better than being as the teacher",
    "finite": "values and gradients are finite, also at large logits and where the two networks agree",
    "hidden_nan": "large logits that differ do not count as equal",
    "order": "the order of the batch does not matter",
    "batch_size": "the batch's size, and so the number of processes, does not matter",
    "mask": "what is masked does not count",
    "classes": "classes that nobody expects do not count",
    "softmax": "probabilities sum to 1 over the classes",
    "length": "the number of positions does not matter",
    "temperature": "gradients keep their size as the temperature rises",
    "jump": "a small change of a setting is a small change of the value",
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or looks so.

    Attributes:
        check: The check that found it, a name of ``CHECKS``.
        severity: ``bug``: the training does not do what it says. ``warning``: look at it; it may be meant.
        where: The criterion, parameter or network.
        found: What was seen, with numbers.
        remedy: What to do.
    """

    check: str
    severity: Severity
    where: str
    found: str
    remedy: str


@dataclass(frozen=True)
class Report:
    """An examination.

    Attributes:
        findings: What was found.
        checked: The checks that applied, by name.
        steps: Training batches that were run.
        seconds: How long it all took.
        notes: What could not be examined, and why.
    """

    findings: Sequence[Finding]
    checked: frozenset[str]
    steps: int
    seconds: float
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def bugs(self) -> list[Finding]:
        """The findings of severity ``bug``."""
        return [finding for finding in self.findings if finding.severity == "bug"]

    def render(self) -> str:
        """The report as text: a line for each check, and under it what was found."""
        lines = [line for check in CHECKS for line in self._lines(check)]
        lines += [f"note     {note}" for note in self.notes]
        warnings = len(self.findings) - len(self.bugs)
        lines.append(
            f"\n{_count(len(self.bugs), 'bug')}, {_count(warnings, 'warning')}; {_count(self.steps, 'training step')} in "
            f"{self.seconds:.1f} s. What the checks mean: docs/doctor.md."
        )
        return "\n".join(lines)

    def _lines(self, check: str) -> list[str]:
        found = [finding for finding in self.findings if finding.check == check]
        if not found:
            word = "ok" if check in self.checked else "-"
            return [f"{word:<8} {check:<16} {CHECKS[check] if word == 'ok' else 'does not apply'}"]
        lines = []
        for finding in found:
            word = "BUG" if finding.severity == "bug" else "warning"
            lines.append(f"{word:<8} {check:<16} {finding.where}")
            lines += _wrapped(finding.found) + _wrapped(f"-> {finding.remedy}")
        return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent=" " * 26, subsequent_indent=" " * 26)
