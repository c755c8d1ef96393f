"""The table of a report, as cells that the terminal and the page share, and as text."""

from __future__ import annotations

import math

from lit_distill.compare.statistics import MOST_SEEDS, TableRow
from lit_distill.compare.summary import Case, Summary
from lit_distill.compare.units import Units, latency_text, seconds, size
from lit_distill.utils.names import count

HOW_TO_READ = (
    "± is the standard deviation over the seeds. Differences are paired by seed, with their 95 % interval over the seeds "
    "(the test set is the same for all). 'better' and 'worse' hold for all rows together (Holm, 5 %); with '?' only for "
    "a row taken alone; 'open': these seeds do not tell. Seeds to tell: so many find a difference of this size 4 times "
    "out of 5."
)


def footnotes(summary: Summary) -> list[str]:
    """Return what must be said of the table: how to read it, what it lacks and why."""
    single = sum(len(row.seeds) == 1 for row in summary.rows)
    equal = sum(case.judged.difference.sd == 0 for case in summary.cases)
    notes = [HOW_TO_READ]
    if single:
        rows = (
            "Every row has"
            if single == len(summary.rows)
            else f"{count(single, 'row')} {'has' if single == 1 else 'have'}"
        )
        notes.append(f"{rows} 1 seed, and so no deviation and no interval: chance cannot be told from effect.")
    if equal:
        notes.append(
            f"{count(equal, 'difference')} came out the same with every seed: that few agree gives no interval."
        )
    return [*notes, *summary.absent]


def headings(units: Units) -> list[str]:
    """Return the heads of the table's columns."""
    return ["method", "teacher", "seeds", units.label, "to no teacher", "verdict", "seeds to tell", "training", "cost"]


def cells(row: TableRow, summary: Summary) -> list[str]:
    """Return a row's cells, in the order of ``headings``."""
    units, case = summary.units, summary.case_of(row)
    first = [
        row.method,
        row.teacher or "-",
        str(len(row.seeds)),
        units.number(row.mean) + (f" ± {units.number(row.sd)}" if row.sd is not None else ""),
    ]
    if case is None:
        return [*first, "" if row.is_control else "no control", "", "", seconds(row.seconds), ""]
    cost = "" if case.cost is None else f"x {case.cost:.2f}"
    verdict = case.judged.verdict.value
    return [*first, _difference(case, units), verdict, _seeds_to_tell(case), seconds(row.seconds), cost]


def _difference(case: Case, units: Units) -> str:
    difference = case.judged.difference
    interval = difference.interval()
    text = units.signed(difference.mean) + (f" {units.interval(interval)}" if interval else "")
    # The row's own number of seeds is in a column; a difference may have fewer.
    return text if difference.seeds == len(case.row.seeds) else f"{text} ({count(difference.seeds, 'seed')})"


def _seeds_to_tell(case: Case) -> str:
    judged = case.judged
    if judged.decided or not judged.measured:
        return ""
    return f"> {MOST_SEEDS}" if judged.seeds_to_tell is None else f"about {judged.seeds_to_tell}"


def student_heading(row: TableRow) -> str:
    """Return a student's name with what it costs to run."""
    latency = latency_text(row.latency_ms) + (" for one sample" if math.isfinite(row.latency_ms) else "")
    return f"{row.student}: {row.parameters:,} parameters, {size(row.size_bytes)}, {latency}"


def table_text(summary: Summary) -> str:
    """Return the table as text: a block for each student."""
    head = headings(summary.units)
    body = {student: [cells(row, summary) for row in summary.of(student)] for student in summary.students}
    every = [head, *(line for block in body.values() for line in block)]
    widths = [max(len(line[place]) for line in every) for place in range(len(head))]
    parts = []
    for student, block in body.items():
        lines = [student_heading(summary.of(student)[0])]
        lines += ["  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *block)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
