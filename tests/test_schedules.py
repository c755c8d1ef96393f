import copy
import math
import pickle
import sys
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from lit_distill.schedules import Between, Cosine, Linear, Schedule, Step

mpl.use("Agg")


class Wave(Schedule):
    """A schedule of a user's own: it says nothing of its bounds."""

    def value(self, step: int, epoch: float) -> float:
        return 1 + math.sin(step)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        # epoch -> value, worked out by hand
        (Linear(0.0, 1.0, until=10), {0: 0.0, 2.5: 0.25, 5: 0.5, 9.75: 0.975, 10: 1.0, 11: 1.0, 1e9: 1.0}),
        (Linear(4.0, 1.0, begin=2, until=8), {0: 4.0, 2: 4.0, 3: 3.5, 5: 2.5, 7: 1.5, 8: 1.0, 60: 1.0}),
        (Cosine(1.0, 0.0, until=4), {0: 1.0, 1: (1 + math.sqrt(0.5)) / 2, 2: 0.5, 3: (1 - math.sqrt(0.5)) / 2, 4: 0.0}),
        (Cosine(4.0, 1.0, begin=10, until=16), {0: 4.0, 10: 4.0, 12: 3.25, 13: 2.5, 14: 1.75, 16: 1.0, 99: 1.0}),
        (Step(0.1, {20: 1.0, 5: 0.5}), {0: 0.1, 4.99: 0.1, 5: 0.5, 19.99: 0.5, 20: 1.0, 21: 1.0}),
        (Between(0.9, end=40), {0: 0.9, 39.99: 0.9, 40: 0.0, 41: 0.0}),
        (Between(2.0, begin=1.5, end=3, outside=0.5), {0: 0.5, 1.49: 0.5, 1.5: 2.0, 2.99: 2.0, 3: 0.5}),
        (Between(1.0, begin=20), {0: 0.0, 19.99: 0.0, 20: 1.0, 1e9: 1.0}),
    ],
    ids=str,
)
def test_values_by_epoch(schedule: Schedule, values: dict[float, float]) -> None:
    for epoch, expected in values.items():
        found = schedule.value(step=123_456, epoch=epoch)  # the step must not matter
        assert found == pytest.approx(expected, abs=1e-12), epoch
        assert isinstance(found, float)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(0.0, 3.0, until=300, begin=0, unit="step"), {0: 0.0, 1: 0.01, 150: 1.5, 299: 2.99, 300: 3.0, 999: 3.0}),
        (Cosine(2.0, 0.0, until=30, begin=10, unit="step"), {0: 2.0, 10: 2.0, 20: 1.0, 30: 0.0, 31: 0.0}),
        (Step(1.0, {3: 0.0}, unit="step"), {0: 1.0, 2: 1.0, 3: 0.0, 4: 0.0}),
        (Between(1.0, 2, 4, unit="step"), {0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0, 4: 0.0}),
    ],
    ids=str,
)
def test_values_by_step(schedule: Schedule, values: dict[int, float]) -> None:
    for step, expected in values.items():
        assert schedule.value(step=step, epoch=7.7) == pytest.approx(expected, abs=1e-12), step


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.9), (0.9, 0.1), (1 / 3, 1e-30), (0.7, 0.0)])
def test_a_ramp_is_exact_at_both_ends_and_stays_between(kind: type[Linear], start: float, end: float) -> None:
    schedule = kind(start, end, until=7, begin=3)
    assert (schedule.value(0, 3.0), schedule.value(0, 7.0)) == (start, end)
    path = [schedule.value(0, 3 + 4 * i / 97) for i in range(98)]
    assert path == sorted(path, reverse=start > end)
    assert min(path) >= min(start, end)
    assert max(path) <= max(start, end)


@pytest.mark.parametrize(
    ("schedule", "bounds"),
    [
        (Linear(4, 1, until=8), (1.0, 4.0)),
        (Cosine(0, 0.5, until=8), (0.0, 0.5)),
        (Step(0.5, {3: 0.1, 9: 2}), (0.1, 2.0)),
        (Between(0.9, end=3), (0.0, 0.9)),
        (Between(0.9, outside=2.0, begin=1), (0.9, 2.0)),
        (Between(0.9), (0.9, 0.9)),  # it always holds: outside is never taken
        (Wave(), None),
    ],
)
def test_bounds(schedule: Schedule, bounds: tuple[float, float] | None) -> None:
    assert schedule.bounds() == bounds


def test_nothing_of_the_past_is_kept() -> None:
    for schedule in (Linear(0, 1, 9), Cosine(0, 1, 9), Step(0, {4: 1}), Between(1, 3, 6)):
        first = [schedule.value(0, epoch) for epoch in (1.0, 8.0, 4.5, 20.0, 0.0)]
        before = copy.deepcopy(vars(schedule))
        again = [schedule.value(0, epoch) for epoch in (0.0, 20.0, 4.5, 8.0, 1.0)]
        assert first == again[::-1]
        assert vars(schedule) == before
        assert pickle.loads(pickle.dumps(schedule)).value(0, 4.5) == schedule.value(0, 4.5)


def test_they_say_what_they_do() -> None:
    assert str(Linear(0, 0.5, until=10)) == "0 to 0.5, linear, epochs 0 to 10"
    assert str(Cosine(4, 1, until=300, begin=100, unit="step")) == "4 to 1, cosine, steps 100 to 300"
    assert str(Step(0.1, {40: 1.0})) == "0.1, 1 from epoch 40"
    assert str(Between(0.9, end=40)) == "0.9 from epoch 0 to 40, 0 outside"
    assert str(Between(1, begin=20)) == "1 from epoch 20 on, 0 outside"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0, 1, until=3, begin=3), "until must come after begin: until is 3 and begin is 3"),
        (lambda: Cosine(0, 1, until=2, begin=3), "until must come after begin: until is 2 and begin is 3"),
        (lambda: Linear(0, 1, until=math.nan), "until must be finite, not nan"),
        (lambda: Linear(0, 1, until=3, begin=-1), "begin must be finite and at least 0, not -1"),
        (lambda: Between(1, begin=5, end=5), "end must come after begin: end is 5 and begin is 5"),
        (lambda: Between(1, begin=math.inf), "begin must be finite and at least 0, not inf"),
        (lambda: Linear(math.nan, 1, until=3), "start must be finite, not nan"),
        (lambda: Linear(0, math.inf, until=3), "end must be finite, not inf"),
        (lambda: Between(math.nan), "value must be finite, not nan"),
        (lambda: Between(1, 2, outside=math.inf), "outside must be finite, not inf"),
        (lambda: Step(1, {4: math.nan}), r"changes\[4\] must be finite, not nan"),
        (lambda: Step(1, {}), "changes is empty; give the value from some epoch on"),
        (lambda: Step(1, {0: 2.0}), "a change at epoch 0 has no effect: changes must be above 0"),
        (lambda: Step(1, {-2: 2.0}, unit="step"), "a change at step -2 has no effect"),
        (lambda: Linear(0, 1, until=3, unit="batch"), "unit must be one of 'epoch', 'step', not 'batch'"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def drawn(schedule: Schedule, **options: Any) -> dict[float, float]:
    axes = schedule.plot(**options)
    (line,) = axes.get_lines()
    points = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    plt.close(axes.figure)
    return points


@pytest.mark.parametrize(
    ("schedule", "points", "last"),
    [
        (Linear(4.0, 1.0, begin=2, until=8), {0: 4.0, 2: 4.0, 5: 2.5, 8: 1.0, 10: 1.0}, 10.0),
        (Cosine(1.0, 0.0, until=4), {0: 1.0, 2: 0.5, 4: 0.0}, 5.0),
        (Step(0.1, {8: 1.0, 5: 0.5}), {4: 0.1, math.nextafter(5, 0): 0.1, 5: 0.5, 8: 1.0}, 10.0),
        (Between(2.0, begin=1.5, end=3, outside=0.5), {math.nextafter(1.5, 0): 0.5, 1.5: 2.0, 3: 0.5}, 3.75),
        (Between(2.0), {0: 2.0}, 1.25),
        (Step(1.0, {40: 0.0}, unit="step"), {0: 1.0, 39: 1.0, 40: 0.0}, 50.0),
        (Linear(0.0, 1.0, until=1000, unit="step"), {0: 0.0, 500: 0.5, 1000: 1.0}, 1250.0),
    ],
)
def test_a_plot_goes_through_its_values(schedule: Schedule, points: dict[float, float], last: float) -> None:
    found = drawn(schedule)
    assert max(found) == pytest.approx(last)
    for moment, value in points.items():
        near = min(found, key=lambda x: abs(x - moment))
        assert near == pytest.approx(moment, abs=1e-12)
        assert found[near if moment not in found else moment] == pytest.approx(value)


def test_a_plot_says_what_it_shows_and_goes_into_given_axes() -> None:
    _, axes = plt.subplots()
    assert Linear(0, 1, until=10).plot(until=4, axes=axes) is axes
    assert Step(1, {3: 0}, unit="step").plot(until=4, axes=axes) is axes
    assert [line.get_label() for line in axes.get_lines()] == ["0 to 1, linear, epochs 0 to 10", "1, 0 from step 3"]
    assert axes.get_xlabel() == "steps"
    assert axes.get_ylabel() == "value"
    assert max(axes.get_lines()[0].get_xdata()) == 4
    plt.close(axes.figure)


def test_a_schedule_of_your_own_is_drawn_as_far_as_it_is_told() -> None:
    found = drawn(Wave(), until=2, steps_per_epoch=10)
    assert found[0] == 1
    assert found[2] == pytest.approx(1 + math.sin(20))
    with pytest.raises(ValueError, match=r"Wave has no moments\(\); give until, the last epoch to draw"):
        Wave().plot()
    with pytest.raises(ValueError, match="until must be above 0 and finite, not 0"):
        Wave().plot(until=0)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'lit-distill\[plot\]'"):
        Linear(0, 1, until=3).plot()
