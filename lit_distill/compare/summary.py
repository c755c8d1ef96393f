"""All that a report says in numbers: each row against its control, and the runs that are not in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lit_distill.compare.results import Result
from lit_distill.compare.statistics import TableRow, control_of, rows_of, stopped_early, students_of
from lit_distill.compare.units import Units
from lit_distill.compare.verdicts import Judged, judge
from lit_distill.utils.names import count

Run = tuple[str, str, str, int]  # student, teacher, method, seed


@dataclass(frozen=True)
class Case:
    """A student with a teacher and a method, against the same student without a teacher.

    Attributes:
        row: The runs with the teacher.
        control: Those without.
        judged: The difference, with what it tells.
    """

    row: TableRow
    control: TableRow
    judged: Judged

    @property
    def cost(self) -> float | None:
        """Training time as a multiple of the control's."""
        return self.row.cost(self.control)


@dataclass(frozen=True)
class Summary:
    """A comparison in numbers.

    Attributes:
        units: How its scores are written.
        rows: The finished runs, by student, the control first.
        cases: The rows that have a control with a seed in common, in the order of ``rows``.
        absent: Sentences on the runs that failed, are missing, or were not trained as the others.
    """

    units: Units
    rows: Sequence[TableRow]
    cases: Sequence[Case]
    absent: Sequence[str]

    @property
    def students(self) -> list[str]:
        """The students' names."""
        return students_of(self.rows)

    def of(self, student: str) -> list[TableRow]:
        """Return a student's rows."""
        return [row for row in self.rows if row.student == student]

    def name(self, row: TableRow, student: bool = True) -> str:
        """Return what was trained, in words, without what is the same in all rows.

        Args:
            row: To name.
            student: Whether to name the student too, if there are several.
        """
        teachers = {one.teacher for one in self.rows if one.teacher}
        taught = row.name if len(teachers) > 1 else row.method
        return f"{row.student}, {taught}" if student and len(self.students) > 1 else taught

    def case_of(self, row: TableRow) -> Case | None:
        """Return a row's case; None for a control, and for a row without one."""
        return next((case for case in self.cases if case.row is row), None)


def summarize(
    results: Sequence[Result], planned: Iterable[Run] = (), failed: Mapping[Run, str] | None = None
) -> Summary:
    """Bring results into the numbers of a report.

    Args:
        results: Of one metric, each run once.
        planned: All runs that there should be. If empty, every choice should have the seeds that any has.
        failed: Why runs have no result.

    Raises:
        ValueError: There are no results, or they cannot be compared.
    """
    if not results:
        raise ValueError("there are no results to report; run the comparison first.")
    rows = rows_of(results)
    units = Units.of(results, [row.sd for row in rows if row.sd])
    return Summary(units, rows, _cases(rows), _absent(results, rows, set(planned), failed or {}))


def _cases(rows: Sequence[TableRow]) -> list[Case]:
    pairs = [(row, control) for row in rows if not row.is_control and (control := control_of(row, rows))]
    gaps = [(row, control, row.against(control)) for row, control in pairs]
    known = [(row, control, gap) for row, control, gap in gaps if gap is not None]
    judged = judge([gap for *_, gap in known])
    return [Case(row, control, one) for (row, control, _), one in zip(known, judged, strict=True)]


def _absent(
    results: Sequence[Result], rows: Sequence[TableRow], planned: set[Run], failed: Mapping[Run, str]
) -> list[str]:
    early = stopped_early(results)
    told = {(one.student, one.teacher, one.method, one.seed): one for one in results}
    reasons = {run: f"its {one.metric} is {one.score}" for run, one in told.items() if not math.isfinite(one.score)}
    reasons |= failed
    expected = planned or _same_seeds(rows)
    missing = [run for run in sorted(expected) if run not in told and run not in failed]
    without = [student for student in students_of(rows) if not any(r.is_control and r.student == student for r in rows)]
    return [
        *(f"Failed: {name_of(run)}, seed {run[3]}: {reason}." for run, reason in sorted(reasons.items())),
        *(f"Missing: {text}." for text in _by_choice(missing)),
        *(f"No control: no run of {student} without a teacher was finished, so nothing tells what its teachers give."
          for student in without),
        *_unequal(rows),
        *([f"Left out: {count(len(early), 'run')} of fewer epochs than others of the same row."] if early else []),
    ]  # fmt: skip


def _unequal(rows: Sequence[TableRow]) -> list[str]:
    """Say whose training was longer or shorter than the control's, as that of a scheme with a config of its own can be."""
    found = [(row, control) for row in rows if (control := control_of(row, rows)) and control.epochs != row.epochs]
    return [
        f"Not trained as long as its control: {row.full_name}, {row.epochs} epochs in place of {control.epochs}."
        for row, control in found
    ]


def _same_seeds(rows: Sequence[TableRow]) -> set[Run]:
    seeds = {seed for row in rows for seed in row.seeds}
    return {(row.student, row.teacher, row.method, seed) for row in rows for seed in seeds}


def _by_choice(runs: Sequence[Run]) -> list[str]:
    choices = dict.fromkeys(run[:3] for run in runs)
    texts = []
    for choice in choices:
        seeds = [str(run[3]) for run in runs if run[:3] == choice]
        texts.append(f"{name_of((*choice, 0))}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}")
    return texts


def name_of(run: Run) -> str:
    """Return what was trained, in words."""
    student, teacher, method, _ = run
    return f"{student}, {method}{' from ' * bool(teacher)}{teacher}"
