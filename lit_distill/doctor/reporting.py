"""The doctor's report: every check with what it found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from lit_distill.doctor.checks import CHECKS
from lit_distill.doctor.findings import Finding
from lit_distill.utils.names import count


@dataclass(frozen=True)
class Report:
    """The result of an examination.

    Attributes:
        findings: What was found.
        checked: Names of the checks that applied.
        steps: Number of training batches that were run.
        seconds: Time that it took.
        notes: What could not be examined, and why.
    """

    findings: Sequence[Finding]
    checked: frozenset[str]
    steps: int
    seconds: float
    notes: Sequence[str] = ()

    @property
    def bugs(self) -> list[Finding]:
        """The findings of severity ``bug``."""
        return [finding for finding in self.findings if finding.severity == "bug"]

    def render(self) -> str:
        """Return the report as text: one line per check, followed by what it found.

        Example:
            >>> report = Report(findings=[], checked=frozenset({"run"}), steps=20, seconds=1.3)
            >>> print(report.render().splitlines()[0])
            ok       run              the set-up trains
        """
        lines = [line for check in CHECKS for line in self._lines(check)]
        lines += [f"note     {note}" for note in self.notes]
        warnings = len(self.findings) - len(self.bugs)
        lines.append(
            f"\n{count(len(self.bugs), 'bug')}, {count(warnings, 'warning')}; {count(self.steps, 'training step')} in "
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


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent=" " * 26, subsequent_indent=" " * 26)
