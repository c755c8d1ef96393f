"""The Pareto front: the choices to which no other is at once cheaper to run and better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lit_distill.compare.statistics import TableRow, complete, students_of
from lit_distill.compare.summary import Summary
from lit_distill.compare.units import latency_text, size
from lit_distill.utils.names import count

Cost = Callable[[TableRow], float]


def latency(row: TableRow) -> float:
    """Return the milliseconds that the student takes for one sample."""
    return row.latency_ms


def bytes_of(row: TableRow) -> float:
    """Return the bytes of the student's parameters and buffers."""
    return float(row.size_bytes)


def pareto_front(rows: Sequence[TableRow], cost: Cost) -> list[TableRow]:
    """Return the rows that no other beats: at most their cost and a better mean, or less cost and no worse a mean.

    Args:
        rows: Of ``rows_of``. Of each student, rows with fewer seeds than another of its rows are not on the front.
        cost: Of running the student; rows whose cost is not finite are not on the front.

    Returns:
        By rising cost. Rows with the same cost and mean are all on it.

    Example:
        >>> from lit_distill.compare.results import CONTROL, Result
        >>> three = [("quick", 0.8, 1.0), ("good", 0.9, 2.0), ("bad", 0.7, 3.0)]  # name, score, milliseconds
        >>> runs = [Result(name, "", CONTROL, 0, score, None, 1.0, (), 10, 40, ms, 1) for name, score, ms in three]
        >>> from lit_distill.compare.statistics import rows_of
        >>> [row.student for row in pareto_front(rows_of(runs), latency)]
        ['quick', 'good']
    """
    eligible = [row for student in students_of(rows) for row in complete(rows, student) if math.isfinite(cost(row))]
    front: list[TableRow] = []
    for row in sorted(eligible, key=lambda one: (cost(one), -one.mean)):
        last = front[-1] if front else None
        if last is None or row.mean > last.mean or (row.mean == last.mean and cost(row) == cost(last)):
            front.append(row)
    return front


def front_text(summary: Summary) -> str:
    """Return both fronts, against latency and against size, a line for each choice on them."""
    rows, units = summary.rows, summary.units
    parts = []
    for title, cost, write in (("latency", latency, latency_text), ("size", bytes_of, size)):
        front = pareto_front(rows, cost)
        if not front:
            parts.append(f"Pareto front, {units.metric} against {title}: no {title} was measured.")
            continue
        costs = [write(cost(row)) for row in front]
        width = max(map(len, costs))
        lines = [f"Pareto front, {units.metric} against {title}: nothing else is as good for less"]
        lines += [
            f"  {text:>{width}}  {units.score(row.mean)} ({count(len(row.seeds), 'seed')})  {summary.name(row)}"
            for text, row in zip(costs, front, strict=True)
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
