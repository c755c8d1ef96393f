from __future__ import annotations

import math

import pytest
from scipy import stats

from lit_distill.compare.statistics import Difference, complete, control_of, rows_of, standard_deviation
from tests.compare.runs import controls, run, runs


def paired(*values: float) -> Difference:
    return Difference(dict(enumerate(values)))


def test_a_paired_difference_by_hand() -> None:
    gain = paired(0.03, 0.01, 0.02)
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert gain.mean == pytest.approx(0.02)
    assert gain.sd == pytest.approx(0.01)
    assert gain.interval() == pytest.approx((0.02 - half, 0.02 + half), abs=1e-8)
    t = 0.02 * math.sqrt(3) / 0.01
    assert gain.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))  # the distribution for 2 degrees of freedom


def test_the_test_is_the_paired_t_test() -> None:
    taught, alone = [0.91, 0.93, 0.90, 0.94, 0.92], [0.90, 0.91, 0.91, 0.91, 0.90]
    rows = rows_of(controls("s", alone) + runs("s", "t", "KD", taught))
    difference = rows[1].against(rows[0])
    assert difference is not None
    expected = stats.ttest_rel(taught, alone)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert difference.interval(0.8) == pytest.approx(tuple(expected.confidence_interval(0.8)))


def test_the_order_of_the_seeds_does_not_matter() -> None:
    results = controls("s", [0.5, 0.7, 0.9]) + runs("s", "t", "KD", [0.6, 0.8, 1.0])
    rows = rows_of(results[::-1])
    assert rows[1].against(rows[0]) == Difference({0: pytest.approx(0.1), 1: pytest.approx(0.1), 2: pytest.approx(0.1)})


def test_only_common_seeds_are_compared() -> None:
    rows = rows_of([*controls("s", [0.5, 0.6, 0.7]), run("s", "t", "KD", 2, 0.9), run("s", "t", "KD", 8, 0.1)])
    assert rows[1].against(rows[0]) == Difference({2: pytest.approx(0.2)})
    assert rows[1].seeds == (2, 8)


def test_no_common_seed_is_no_difference() -> None:
    rows = rows_of([*controls("s", [0.5]), run("s", "t", "KD", 8, 0.6)])
    assert rows[1].against(rows[0]) is None
    assert rows[1].cost(rows[0]) is None


def test_one_seed_has_neither_deviation_nor_interval() -> None:
    row = rows_of(controls("s", [0.5]))[0]
    assert row.sd is None
    gain = paired(0.1)
    assert (gain.sd, gain.interval(), gain.p_value, gain.seeds_to_tell()) == (None, None, None, None)


@pytest.mark.parametrize("values", [(0.1, 0.1), (0.0, 0.0, 0.0), (0.3 - 0.2, 0.1, 0.1)])
def test_equal_differences_have_no_interval(values: tuple[float, ...]) -> None:
    gain = paired(*values)
    assert gain.sd == 0
    assert (gain.interval(), gain.p_value, gain.seeds_to_tell()) == (None, None, None)


@pytest.mark.parametrize(("mean", "level"), [(2.0, 0.05), (1.0, 0.05), (0.5, 0.05), (1.0, 0.05 / 36), (0.25, 0.05)])
def test_so_many_seeds_find_it_4_times_out_of_5(mean: float, level: float) -> None:
    """Against the exact power, of the noncentral t distribution."""
    spread = (mean - math.sqrt(0.5), mean + math.sqrt(0.5))
    gain = paired(*spread)
    assert gain.sd == pytest.approx(1)
    seeds = gain.seeds_to_tell(level)
    assert seeds is not None

    def power(number: int) -> float:
        end = stats.t.ppf(1 - level / 2, number - 1)
        return float(stats.nct.sf(end, number - 1, mean * math.sqrt(number)))

    assert power(seeds) > 0.76
    assert power(seeds - 1) < 0.84


def test_what_no_number_of_seeds_tells() -> None:
    assert paired(-0.1, 0.1).seeds_to_tell() is None
    assert paired(-0.1, 0.1001).seeds_to_tell() is None


def test_rows_by_hand() -> None:
    results = (
        runs("b", "t", "KD", [0.8, 0.9], seconds=3.0)
        + controls("a", [0.5, 0.7], size_bytes=80)
        + controls("b", [0.6, 0.6], seconds=2.0)
        + runs("b", "t", "AT", [0.95, 0.95])
    )
    rows = rows_of(results)
    assert [(row.student, row.method) for row in rows] == [
        ("b", "no teacher"),
        ("b", "AT"),
        ("b", "KD"),
        ("a", "no teacher"),
    ]
    kd, control = rows[2], rows[0]
    assert (kd.mean, kd.sd, kd.cost(control)) == pytest.approx((0.85, math.sqrt(0.005), 1.5))
    gap = kd.against_teacher
    assert gap is not None
    assert gap.mean == pytest.approx(-0.14)
    assert control.against_teacher is None
    assert control_of(kd, rows) is control


def test_failed_runs_do_not_count() -> None:
    rows = rows_of(controls("s", [0.5, math.nan, 0.7, math.inf]))
    assert rows[0].seeds == (0, 2)
    assert rows[0].mean == pytest.approx(0.6)


def test_runs_that_were_stopped_early_do_not_count() -> None:
    """Whose score after 2 of 9 epochs is that of an untrained student."""
    results = [run("s", "t", "KD", 0, 0.8, epochs=9), run("s", "t", "KD", 1, 0.3, epochs=2)]
    (row,) = rows_of(results)
    assert (row.mean, row.seeds, row.epochs) == (0.8, (0,), 9)


def test_a_method_may_have_another_number_of_epochs() -> None:
    rows = rows_of(controls("s", [0.8], epochs=9) + runs("s", "t", "scheme", [0.9], epochs=2))
    assert [row.method for row in rows] == ["no teacher", "scheme"]


def test_rows_with_fewer_seeds_are_not_complete() -> None:
    rows = rows_of(controls("s", [0.5, 0.6]) + runs("s", "t", "KD", [0.9]) + controls("other", [0.7]))
    assert [row.method for row in complete(rows, "s")] == ["no teacher"]
    assert len(complete(rows, "other")) == 1
    assert complete(rows, "unknown") == []


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="scores of accuracy and f1; compare those of one metric"):
        rows_of([run("s", "", "no teacher", 0, 0.5), run("s", "t", "KD", 0, 0.5, metric="f1")])
    with pytest.raises(ValueError, match="2 results of 's', 'KD' from 't', seed 0"):
        rows_of([run("s", "t", "KD", 0, 0.5), run("s", "t", "KD", 0, 0.6)])


def test_deviations_of_equal_scores_are_exactly_0() -> None:
    assert standard_deviation([0.1 + 0.2, 0.3]) == 0
    assert standard_deviation([0.3]) is None
    assert standard_deviation([0.0, 2.0]) == pytest.approx(math.sqrt(2))
