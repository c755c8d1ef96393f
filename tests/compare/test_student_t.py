from __future__ import annotations

import math

import pytest
from scipy import stats

from lit_distill.compare.student_t import quantile, two_sided_p

DEGREES = [1, 2, 3, 4, 5, 9, 10, 29, 199]


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("t", [-4.0, 0.0, 0.1, 1.0, 3.0, 30.0])
def test_p_values_are_those_of_scipy(t: float, degrees: int) -> None:
    assert two_sided_p(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), abs=1e-13)


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("probability", [0.025, 0.5, 0.6, 0.8, 0.975, 0.9999, 1 - 1e-6])
def test_quantiles_are_those_of_scipy(probability: float, degrees: int) -> None:
    assert quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-8, abs=1e-12)


# From the tables that statistics books print.
@pytest.mark.parametrize(("degrees", "value"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_tabled_ends_of_95_percent(degrees: int, value: float) -> None:
    assert quantile(0.975, degrees) == pytest.approx(value, abs=5e-4)


def test_many_degrees_are_a_normal_distribution() -> None:
    assert quantile(0.975, 5000) == pytest.approx(1.95996, abs=1e-3)
    assert two_sided_p(math.inf, 3) == 0
