from __future__ import annotations

import math

import pytest

from lit_distill.compare.summary import summarize
from lit_distill.compare.tables import cells, footnotes, headings, table_text
from lit_distill.compare.units import Units, latency_text, seconds, size
from tests.compare.runs import controls, run, runs


def test_cells_by_hand() -> None:
    results = controls("s", [0.90, 0.91, 0.92], seconds=2.0) + runs("s", "t", "KD", [0.93, 0.92, 0.94], seconds=5.0)
    summary = summarize(results)
    control, kd = (dict(zip(headings(summary.units), cells(row, summary), strict=True)) for row in summary.rows)
    assert control == {
        "method": "no teacher", "teacher": "-", "seeds": "3", "accuracy, %": "91.0 ± 1.0", "to no teacher": "", "verdict": "",
        "seeds to tell": "", "training": "2.0 s", "cost": "",
    }  # fmt: skip
    # differences 0.03, 0.01, 0.02: see the test of the paired difference
    assert kd == {
        "method": "KD", "teacher": "t", "seeds": "3", "accuracy, %": "93.0 ± 1.0", "to no teacher": "+2.0 [-0.5, +4.5]",
        "verdict": "open", "seeds to tell": "about 5", "training": "5.0 s", "cost": "x 2.50",
    }  # fmt: skip


def test_a_difference_of_fewer_seeds_says_so() -> None:
    summary = summarize(controls("s", [0.90, 0.91]) + runs("s", "t", "KD", [0.93, 0.92, 0.94]))
    assert cells(summary.rows[1], summary)[4].endswith("(2 seeds)")


def test_one_seed_is_said() -> None:
    summary = summarize([*controls("s", [0.9]), run("s", "t", "KD", 0, 0.92)])
    text = table_text(summary)
    assert "±" not in text
    assert "[" not in text
    assert "Every row has 1 seed, and so no deviation and no interval" in footnotes(summary)[1]
    mixed = summarize([*controls("s", [0.9, 0.91]), run("s", "t", "KD", 0, 0.92)])
    assert footnotes(mixed)[1].startswith("1 row has 1 seed")


def test_equal_differences_are_said() -> None:
    summary = summarize(controls("s", [0.9, 0.8]) + runs("s", "t", "KD", [0.95, 0.85]))
    assert cells(summary.rows[1], summary)[4:6] == ["+5.0", "open"]
    assert "1 difference came out the same with every seed" in footnotes(summary)[1]


def test_failed_and_missing_runs_are_listed() -> None:
    results = [*controls("s", [0.9, 0.8, 0.7]), run("s", "t", "KD", 1, math.nan), run("s", "t", "AT", 1, 0.9)]
    failed = {("s", "t", "AT", 0): "CUDA out of memory"}
    assert list(summarize(results, failed=failed).absent) == [
        "Failed: s, AT from t, seed 0: CUDA out of memory.",
        "Failed: s, KD from t, seed 1: its accuracy is nan.",
        "Missing: s, AT from t, seed 2.",
    ]
    planned = [("s", "t", "KD", seed) for seed in range(3)] + [("x", "", "no teacher", 0)]
    assert list(summarize(results, planned).absent) == [
        "Failed: s, KD from t, seed 1: its accuracy is nan.",
        "Missing: s, KD from t, seeds 0, 2.",
        "Missing: x, no teacher, seed 0.",
    ]


def test_unequal_trainings_are_listed() -> None:
    results = [
        *controls("s", [0.9], epochs=9),
        *runs("s", "t", "KD", [0.3, 0.8], epochs=9),
        run("s", "t", "KD", 2, 0.1),
    ]
    results += runs("s", "", "scheme", [0.3], epochs=4)
    assert "Left out: 1 run of fewer epochs than others of the same row." in summarize(results).absent
    assert "Not trained as long as its control: s, scheme, 4 epochs in place of 9." in summarize(results).absent


def test_a_student_without_a_control_is_listed() -> None:
    summary = summarize(controls("s", [0.9]) + runs("x", "t", "KD", [0.3]))
    assert summary.absent == [
        "No control: no run of x without a teacher was finished, so nothing tells what its teachers give."
    ]
    assert cells(summary.rows[1], summary)[4] == "no control"
    assert summary.case_of(summary.rows[1]) is None


def test_no_results_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no results to report; run the comparison first"):
        summarize([])


def test_names_leave_out_what_is_the_same() -> None:
    one = summarize(controls("s", [0.9]) + runs("s", "t", "KD", [0.9]))
    assert one.name(one.rows[1]) == "KD"
    many = summarize(controls("s", [0.9]) + runs("s", "t", "KD", [0.9]) + runs("x", "u", "KD", [0.9]))
    assert many.name(many.rows[1]) == "s, KD from t"
    assert many.name(many.rows[1], student=False) == "KD from t"


def test_a_scheme_without_a_teacher_is_no_control() -> None:
    summary = summarize(controls("s", [0.9, 0.8]) + runs("s", "", "born again", [0.95, 0.9]))
    assert [case.row.name for case in summary.cases] == ["born again"]


def test_units() -> None:
    percent = Units.of(controls("s", [0.9, 0.8]))
    assert (percent.label, percent.score(0.9), percent.number(-0.0001)) == ("accuracy, %", "90.0 %", "0.0")
    fine = Units.of(controls("s", [0.9, 0.8]), [0.0004, 0.001])
    assert fine.score(0.9) == "90.00 %"
    other = Units.of(runs("s", "t", "KD", [12.5, 13.5], metric="bleu"))
    assert (other.label, other.score(12.5), other.difference(-1)) == ("bleu", "12.50", "-1.00")
    lower = Units.of(runs("s", "t", "KD", [-1.25, -1.2], metric="cross_entropy/student"))
    assert (lower.label, lower.number(-1.25)) == ("minus cross_entropy", "-1.2500")


def test_costs() -> None:
    assert [size(number) for number in (999, 999_999, 1_000_000, 2.5e9)] == [
        "999 bytes",
        "1000.0 kB",
        "1.0 MB",
        "2.5 GB",
    ]
    assert [seconds(number) for number in (0.04, 9.94, 99, 3600)] == ["0.0 s", "9.9 s", "99 s", "60 min"]
    assert latency_text(123.456) == "123 ms"
