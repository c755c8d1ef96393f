"""Which teacher and which student to take: the answer in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lit_distill.compare.front import bytes_of, latency, pareto_front
from lit_distill.compare.statistics import MOST_SEEDS, TableRow, complete
from lit_distill.compare.summary import Summary
from lit_distill.compare.units import Units, latency_text, seconds, size
from lit_distill.compare.verdicts import Judged, Verdict, judge
from lit_distill.compare.words import joined, measured, scored
from lit_distill.utils.names import count


def choice_answer(summary: Summary) -> list[str]:
    """Return the answer as paragraphs: a student for each latency, then a teacher for each student."""
    if not summary.rows:
        return ["That cannot be told: no run was finished."]
    parts = _along_the_front(summary)
    for student in summary.students:
        parts += [_best(student, summary), _teachers(student, summary)]
    return [part for part in parts if part]


def _best(student: str, summary: Summary) -> str:
    ranked = rank(student, summary)
    text = f"{student}: take {ranked.best.name}, {scored(ranked.best, summary.units)}."
    if ranked.tied:
        text += (
            f" {_tie(summary.name(ranked.best, student=False), _names(ranked.tied, summary), len(ranked.best.seeds))}"
        )
        text += f"{_seeds(ranked)}{_quickest(ranked, summary)}."
    if ranked.beaten:
        text += f" It is better than {joined(_names(ranked.beaten, summary), most=4)}."
    if ranked.beaten_alone:
        alone = joined(_names(ranked.beaten_alone, summary), most=4)
        text += f" Taken alone, it would{' also' * bool(ranked.beaten)} be better than {alone}."
    rows = 1 + len(ranked.others)
    if rows > 2:
        text += f" The best of {rows} means owes a part of its lead to chance."
    if left := len(summary.of(student)) - rows:
        text += f" Not considered: {count(left, 'row')} with fewer seeds."
    return text


def _names(rows: Sequence[TableRow], summary: Summary) -> list[str]:
    return [summary.name(row, student=False) for row in rows]


def _tie(first: str, others: Sequence[str], seeds: int) -> str:
    """Say that something was not told apart from others; of these among each other, nothing is said."""
    if len(others) == 1:
        return f"{first} and {others[0]} cannot be told apart with {count(seeds, 'seed')}"
    return f"{first} cannot be told apart from {joined(others, most=4)} with {count(seeds, 'seed')}"


def _seeds(ranked: Ranked) -> str:
    """Say how many seeds would tell the best from the next, if it is not beaten."""
    first = ranked.leads.get(ranked.others[0].taught_by) if ranked.others else None
    if first is None or not first.measured or first.verdict is Verdict.BETTER:
        return ""
    number = f"more than {MOST_SEEDS}" if first.seeds_to_tell is None else f"about {first.seeds_to_tell}"
    return f" ({number} would tell the first two)"


@dataclass(frozen=True)
class Ranked:
    """A student's rows, against the one with the best mean; each by falling mean.

    Attributes:
        best: The best mean.
        leads: The best row's lead over each other row that has a seed in common with it, by the row's
            ``taught_by``, judged. Its
            lead over no teacher is judged among the cases of all students, as in the table; the others among themselves.
        others: The other rows.
    """

    best: TableRow
    leads: Mapping[tuple[str, str], Judged]
    others: Sequence[TableRow]

    @property
    def beaten(self) -> list[TableRow]:
        """Rows that the best is better than."""
        return [row for row in self.others if self._told(row, Verdict.BETTER)]

    @property
    def beaten_alone(self) -> list[TableRow]:
        """Rows that the best would be better than if no others had been looked at."""
        return [row for row in self.others if self._told(row, Verdict.BETTER_ALONE)]

    @property
    def tied(self) -> list[TableRow]:
        """Rows that cannot be told apart from the best."""
        return [row for row in self.others if row not in self.beaten and row not in self.beaten_alone]

    def _told(self, row: TableRow, verdict: Verdict) -> bool:
        return row.taught_by in self.leads and self.leads[row.taught_by].verdict is verdict


def rank(student: str, summary: Summary) -> Ranked:
    """Compare a student's rows with the one that has the best mean, seed by seed."""
    best, *others = sorted(complete(summary.rows, student), key=lambda row: -row.mean)
    if best.is_control:
        leads = {row.taught_by: case.judged.reversed for row in others if (case := summary.case_of(row))}
        return Ranked(best, leads, others)
    gaps = {row.taught_by: gap for row in others if not row.is_control and (gap := best.against(row))}
    leads = dict(zip(gaps, judge(list(gaps.values())), strict=True))
    case = summary.case_of(best)
    return Ranked(best, leads | ({case.control.taught_by: case.judged} if case else {}), others)


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
    ranked = rank(student, summary)
    by_teacher: dict[str, TableRow] = {}
    for row in (ranked.best, *ranked.others):
        if row.teacher:
            by_teacher.setdefault(row.teacher, row)
    if len(by_teacher) < 2:
        return ""
    first, *others = by_teacher.values()
    units, seeds = summary.units, len(first.seeds)
    texts = [f"{row.teacher} {units.score(row.mean)} by {row.method}" for row in by_teacher.values()]
    text = f"Teachers of {student}, each by its best method ({count(seeds, 'seed')} each): {joined(texts)}."
    if first is not ranked.best:  # which is no teacher, so that nothing more need be said of the others
        return text
    better, alone, tied = (
        [_by(row, ranked.leads, units) for row in others if row in found]
        for found in (ranked.beaten, ranked.beaten_alone, ranked.tied)
    )
    if better:
        text += f" {first.teacher} is better than {joined(better)}."
    if alone:
        text += f" Taken alone, {first.teacher} would{' also' * bool(better)} be better than {joined(alone)}."
    if tied:
        text += f" {_tie(first.teacher, tied, seeds)}."
    return text


def _by(row: TableRow, leads: Mapping[tuple[str, str], Judged], units: Units) -> str:
    lead = leads.get(row.taught_by)
    return f"{row.teacher} ({measured(lead.difference, units, seeds=False)})" if lead else row.teacher


def _along_the_front(summary: Summary) -> list[str]:
    if len(summary.students) < 2:
        return []
    what, cost, write = "latency", latency, latency_text
    if not pareto_front(summary.rows, latency):
        what, cost, write = "size", bytes_of, size
    found = pareto_front(summary.rows, cost)
    # Rows of the same cost and mean are all on it, and one of them is enough.
    front = list({(row.student, cost(row)): row for row in reversed(found)}.values())[::-1]
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
    for gap in gaps:
        if gap is None:
            texts.append("")
            continue
        text = f", {measured(gap, units, seeds=False)} to the one before"
        told = next(judged).verdict is Verdict.BETTER
        texts.append(text if told else f"{text}, and {count(gap.seeds, 'seed')} cannot tell them apart")
    return texts
