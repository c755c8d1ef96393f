"""Which teacher and which student to take: the answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lit_distill.compare.front import bytes_of, latency, pareto_front
from lit_distill.compare.statistics import TableRow, complete
from lit_distill.compare.summary import Summary
from lit_distill.compare.units import Units, count, milliseconds, seconds, size
from lit_distill.compare.verdicts import Judged, Verdict, judge
from lit_distill.compare.words import joined, measured, scored


def choice_answer(summary: Summary) -> list[str]:
    """Return the answer as paragraphs: a student for each latency, then a teacher for each student."""
    if not summary.rows:
        return ["That cannot be told: no run was finished."]
    parts = _along_the_front(summary)
    for student in summary.students:
        parts += [_best(student, summary), _teachers(student, summary)]
    return [part for part in parts if part]


def _best(student: str, summary: Summary) -> str:
    rows = complete(summary.rows, student)
    ranked = rank(rows)
    text = f"{student}: take {ranked.best.name}, {scored(ranked.best, summary.units)}."
    if ranked.tied:
        names = _names([ranked.best, *ranked.tied], summary)
        text += (
            f" {names} cannot be told apart with {count(len(ranked.best.seeds), 'seed')}{_quickest(ranked, summary)}."
        )
    if ranked.beaten:
        text += f" It is better than {_names(ranked.beaten, summary)}."
    if ranked.beaten_alone:
        text += f" Taken alone, it would also be better than {_names(ranked.beaten_alone, summary)}."
    if len(rows) > 2:
        text += f" The best of {len(rows)} means owes a part of its lead to chance."
    if left := len(summary.of(student)) - len(rows):
        text += f" Not considered: {count(left, 'row')} with fewer seeds."
    return text


def _names(rows: Sequence[TableRow], summary: Summary) -> str:
    return joined([summary.name(row, student=False) for row in rows], most=4)


@dataclass(frozen=True)
class Ranked:
    """A student's rows, against the one with the best mean; each by falling mean.

    Attributes:
        best: The best mean.
        tied: Those that cannot be told apart from it.
        beaten_alone: Those that it would be better than if no others had been looked at.
        beaten: Those that it is better than.
    """

    best: TableRow
    tied: Sequence[TableRow]
    beaten_alone: Sequence[TableRow]
    beaten: Sequence[TableRow]


def rank(rows: Sequence[TableRow]) -> Ranked:
    """Compare a student's rows with the one that has the best mean, seed by seed."""
    best = max(rows, key=lambda row: row.mean)
    others = sorted((row for row in rows if row is not best), key=lambda row: -row.mean)
    gaps = [(row, gap) for row in others if (gap := best.against(row)) is not None]
    verdicts = {id(row): one.verdict for (row, _), one in zip(gaps, judge([gap for _, gap in gaps]), strict=True)}
    alone, beaten = (
        [row for row in others if verdicts.get(id(row)) is one] for one in (Verdict.BETTER_ALONE, Verdict.BETTER)
    )
    return Ranked(best, [row for row in others if row not in alone and row not in beaten], alone, beaten)


def _quickest(ranked: Ranked, summary: Summary) -> str:
    """Name the quickest to train of those within a standard deviation: 'not told apart' alone may only mean unsteady."""
    best, sd = ranked.best, ranked.best.sd
    near = [] if sd is None else [row for row in ranked.tied if best.mean - row.mean <= sd]
    if not near:
        return ""
    quickest = min([best, *near], key=lambda row: row.seconds)
    name = summary.name(quickest, student=False)
    return f"; of those within a standard deviation, {name} trains in the least time, {seconds(quickest.seconds)} a run"


def _teachers(student: str, summary: Summary) -> str:
    """Compare the teachers, each with its best method."""
    best: dict[str, TableRow] = {}
    for row in sorted(complete(summary.rows, student), key=lambda row: -row.mean):
        if row.teacher:
            best.setdefault(row.teacher, row)
    if len(best) < 2:
        return ""
    first, *others = best.values()
    units = summary.units
    texts = [f"{row.teacher} {units.score(row.mean)} by {row.method}" for row in best.values()]
    gaps = [(row, gap) for row in others if (gap := first.against(row)) is not None]
    judged = list(zip([row for row, _ in gaps], judge([gap for _, gap in gaps]), strict=True))
    better = [_by(row, one, units) for row, one in judged if one.verdict is Verdict.BETTER]
    tied = [_by(row, one, units) for row, one in judged if one.verdict is not Verdict.BETTER]
    text = f"Teachers of {student}, each by its best method ({count(len(first.seeds), 'seed')} each): {joined(texts)}."
    if better:
        text += f" {first.teacher} is better than {joined(better)}."
    if tied:
        text += f" {joined([first.teacher, *tied])} cannot be told apart with {count(len(first.seeds), 'seed')}."
    return text


def _by(row: TableRow, judged: Judged, units: Units) -> str:
    return f"{row.teacher} ({measured(judged.difference, units, seeds=False)})"


def _along_the_front(summary: Summary) -> list[str]:
    if len(summary.students) < 2:
        return []
    what, cost, write = "latency", latency, milliseconds
    if not pareto_front(summary.rows, latency):
        what, cost, write = "size", bytes_of, size
    # Rows of one student cost the same: those on the front with it have the same mean, and one is enough.
    front = list({row.student: row for row in reversed(pareto_front(summary.rows, cost))}.values())[::-1]
    texts = [f"from {write(cost(row))}: {summary.name(row)}, {scored(row, summary.units)}" for row in front]
    for place, step in enumerate(_steps(front, summary.units), start=1):
        texts[place] += step
    off = [student for student in summary.students if student not in {row.student for row in front}]
    rest = f" Not on the front: {joined(off)}; another student is as good for less." if off else ""
    return [f"Which student for which {what}: {'; '.join(texts)}.{rest}"]


def _steps(front: Sequence[TableRow], units: Units) -> list[str]:
    """Say what each student on the front gains over the one before it."""
    gaps = [after.against(before) for before, after in pairwise(front)]
    judged = iter(judge([gap for gap in gaps if gap is not None]))
    texts = []
    for (before, _), gap in zip(pairwise(front), gaps, strict=True):
        if gap is None:
            texts.append("")
            continue
        text = f", {measured(gap, units, seeds=False)} to {before.student}"
        told = next(judged).verdict is Verdict.BETTER
        texts.append(text if told else f"{text}, and {count(gap.seeds, 'seed')} cannot tell them apart")
    return texts
