from __future__ import annotations

import math

from lit_distill.compare.front import bytes_of, front_text, latency, pareto_front
from lit_distill.compare.statistics import TableRow, rows_of
from lit_distill.compare.summary import summarize
from tests.compare.runs import controls, runs

FIVE = {"a": (0.70, 1.0, 50), "b": (0.80, 2.0, 40), "c": (0.75, 3.0, 30), "d": (0.90, 4.0, 20), "e": (0.80, 2.5, 60)}


def five() -> list:
    return [
        one
        for name, (score, ms, size) in FIVE.items()
        for one in controls(name, [score, score], latency_ms=ms, size_bytes=size)
    ]


def test_a_known_front() -> None:
    rows = rows_of(five())
    assert [row.student for row in pareto_front(rows, latency)] == ["a", "b", "d"]
    assert [row.student for row in pareto_front(rows, bytes_of)] == ["d"]


def test_no_choice_beats_one_on_the_front_and_each_other_is_beaten() -> None:
    rows = rows_of(five())
    front = pareto_front(rows, latency)

    def beats(one: TableRow, other: TableRow) -> bool:
        at_least = one.latency_ms <= other.latency_ms and one.mean >= other.mean
        return at_least and (one.latency_ms < other.latency_ms or one.mean > other.mean)

    for row in rows:
        assert any(beats(other, row) for other in rows) == (row not in front)


def test_ties_stay_together() -> None:
    rows = rows_of(
        controls("a", [0.5], latency_ms=1.0)
        + controls("b", [0.5], latency_ms=1.0)
        + controls("c", [0.5], latency_ms=2.0)
    )
    assert [row.student for row in pareto_front(rows, latency)] == ["a", "b"]


def test_a_lucky_single_seed_is_not_on_the_front() -> None:
    rows = rows_of(controls("a", [0.5, 0.6]) + runs("a", "t", "KD", [0.9]))
    assert [row.method for row in pareto_front(rows, latency)] == ["no teacher"]


def test_what_was_not_measured_is_not_on_the_front() -> None:
    results = controls("a", [0.5], latency_ms=math.nan) + controls("b", [0.4], latency_ms=1.0)
    assert [row.student for row in pareto_front(rows_of(results), latency)] == ["b"]
    text = front_text(summarize(controls("a", [0.5], latency_ms=math.nan)))
    assert "no latency was measured" in text


def test_the_text_has_cost_score_seeds_and_name() -> None:
    lines = front_text(summarize(five())).splitlines()
    assert lines[1:4] == [
        "  1 ms  70.0 % (2 seeds)  a, no teacher",
        "  2 ms  80.0 % (2 seeds)  b, no teacher",
        "  4 ms  90.0 % (2 seeds)  d, no teacher",
    ]
    assert lines[-1] == "  20 bytes  90.0 % (2 seeds)  d, no teacher"
