from __future__ import annotations

import random

import pytest

from lit_distill.compare.statistics import Difference
from lit_distill.compare.verdicts import Verdict, holm, judge


def around(mean: float, sd: float = 0.01) -> Difference:
    """Three differences with this mean and standard deviation."""
    return Difference({0: mean - sd, 1: mean, 2: mean + sd})


def test_holm_by_hand() -> None:
    assert holm([0.02, 0.01, 0.5, 0.03]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_comparison_is_not_corrected() -> None:
    # t = 5 with 2 degrees of freedom: p = 1 - 5/sqrt(27) = 0.0377
    difference = around(5 * 0.01 / 3**0.5)
    assert [one.verdict for one in judge([difference])] == [Verdict.BETTER]
    several = judge([difference, around(0.001), around(-0.001)])
    assert [one.verdict for one in several] == [Verdict.BETTER_ALONE, Verdict.OPEN, Verdict.OPEN]


def test_both_directions() -> None:
    judged = judge([around(1.0), around(-1.0), around(-5 * 0.01 / 3**0.5), around(0.0)])
    assert [one.verdict.value for one in judged] == ["better", "worse", "worse?", "open"]
    assert [one.decided for one in judged] == [True, True, False, False]


def test_what_has_no_interval_is_open_and_costs_the_others_nothing() -> None:
    judged = judge([Difference({0: 0.5}), around(5 * 0.01 / 3**0.5), Difference({0: 0.1, 1: 0.1})])
    assert [one.verdict.value for one in judged] == ["open", "better", "open"]
    assert [one.measured for one in judged] == [False, True, False]


def test_seeds_are_counted_for_all_comparisons_together() -> None:
    alone, among = judge([around(0.02)])[0], judge([around(0.02)] * 20)[0]
    assert alone.seeds_to_tell is not None
    assert among.seeds_to_tell is not None
    assert among.seeds_to_tell > alone.seeds_to_tell


def test_chance_alone_is_rarely_called_an_effect() -> None:
    """Of 600 comparisons in which no method does anything, at most about 5 % may say anything; uncorrected, 30 % would."""
    chance, together, alone = random.Random(0), 0, 0
    for _ in range(600):
        control = [chance.gauss(0, 1) for _ in range(4)]
        gaps = [{seed: chance.gauss(0, 1) - control[seed] for seed in range(4)} for _ in range(12)]
        p_values = [p for gap in gaps if (p := Difference(gap).p_value) is not None]
        together += min(holm(p_values)) < 0.05
        alone += min(p_values) < 0.05
    assert together / 600 < 0.07
    assert alone / 600 > 0.2
