"""Values that follow the training: a weight or a temperature that rises, falls, begins or ends.

A schedule has no state. Its value depends only on the progress, so that a resumed run continues exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, get_args

from lit_distill.utils.arguments import as_float, check_choice, check_number, wrong_type
from lit_distill.utils.plotting import Axes, axes_or_new

Unit = Literal["epoch", "step"]


class Schedule(ABC):
    """A number as a function of the training's progress: the value itself, not a factor of another.

    Examples:
        >>> class Halving(Schedule):
        ...     def value(self, step, epoch):
        ...         return 0.5 ** int(epoch)
        >>> Halving().value(step=0, epoch=2.5)
        0.25
    """

    unit: Unit = "epoch"

    @abstractmethod
    def value(self, step: int, epoch: float) -> float:
        """Return the value in force for a batch.

        Args:
            step: Number of optimizer steps so far.
            epoch: Number of epochs so far, including the completed part of the present one: 2.5 halfway through the third.
        """

    def bounds(self) -> tuple[float, float] | None:
        """Return the smallest and the largest value that it can take, which are checked before training; None if unknown."""
        return None

    def span(self) -> tuple[Unit, float, float] | None:
        """Return the unit of its moments and the begin and end of the first change; None if unknown."""
        return None

    def moments(self) -> tuple[float, ...]:
        """Return the moments, in its unit, at which a change begins or ends; none if unknown."""
        return ()

    def plot(self, until: float | None = None, steps_per_epoch: int = 1, axes: Axes | None = None) -> Axes:
        """Draw the value over the training; needs the extra ``lit-distill[plot]``.

        Args:
            until: The last moment to draw, in the schedule's unit; a quarter past its last change if None.
            steps_per_epoch: Optimizer steps per epoch, for a schedule of your own that reads both steps and epochs.
            axes: Matplotlib axes to draw into; new ones if None.

        Returns:
            The axes.

        Raises:
            ImportError: Matplotlib is not installed.
            ValueError: ``until`` is not above 0, or it is None and the schedule has no moments.
        """
        moments = self.moments()
        if until is None and not moments:
            raise ValueError(f"{type(self).__name__} has no moments(); give until, the last {self.unit} to draw.")
        last = check_number("until", 1.25 * (max(moments) or 1.0) if until is None else until, above=0)
        # Just before each moment as well: there the value may jump.
        fine = [last * part / 200 for part in range(201)]
        edges = [edge for moment in moments for edge in (math.nextafter(moment, -1), moment) if 0 <= edge <= last]
        steps = self.unit == "step"
        times = sorted({math.floor(moment) if steps else moment for moment in (*fine, *edges)})
        progress = [(time, time / steps_per_epoch) if steps else (time * steps_per_epoch, time) for time in times]
        axes = axes_or_new(axes)
        axes.plot(times, [self.value(int(step), epoch) for step, epoch in progress], label=str(self))
        axes.set(xlabel=f"{self.unit}s", ylabel="value")
        return axes


class TimedSchedule(Schedule):
    """A schedule in epochs or in optimizer steps.

    Args:
        unit: ``epoch`` or ``step``; anything else is a ``ValueError``.
    """

    def __init__(self, unit: Unit) -> None:
        check_choice("unit", unit, get_args(Unit))
        self.unit = unit

    def now(self, step: int, epoch: float) -> float:
        """Return the progress in the schedule's unit."""
        return float(step) if self.unit == "step" else epoch


class Ramp(TimedSchedule):
    """Goes from one value to another between two moments, and stays there; subclasses define the curve.

    Args:
        start: The value up to ``begin``.
        end: The value from ``until`` on.
        until: When the end is reached, after ``begin``.
        begin: When the start is left, 0 or later.
        unit: The unit of ``begin`` and ``until``: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.

    Examples:
        >>> class Quadratic(Ramp):
        ...     def shape(self, fraction):
        ...         return fraction**2
        >>> Quadratic(0.0, 1.0, until=10).value(step=0, epoch=5)
        0.25
    """

    def __init__(self, start: float, end: float, until: float, begin: float = 0.0, unit: Unit = "epoch") -> None:
        super().__init__(unit)
        self.start, self.end = check_number("start", start), check_number("end", end)
        self.begin = check_number("begin", begin, least=0)
        self.until = _later(self.begin, "until", check_number("until", until))

    @abstractmethod
    def shape(self, fraction: float) -> float:
        """Return the completed part of the change, from 0 to 1, after a ``fraction`` of its time."""

    def value(self, step: int, epoch: float) -> float:
        now = self.now(step, epoch)
        if not self.begin < now < self.until:
            return self.start if now <= self.begin else self.end
        return self.start + (self.end - self.start) * self.shape((now - self.begin) / (self.until - self.begin))

    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def moments(self) -> tuple[float, ...]:
        return self.begin, self.until

    def span(self) -> tuple[Unit, float, float] | None:
        return (self.unit, self.begin, self.until) if self.start != self.end else None

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g}, {type(self).__name__.lower()}, {self.unit}s {self.begin:g} to {self.until:g}"


class Linear(Ramp):
    r"""Goes from one value to another in a straight line.

    $$ \mathrm{start} + (\mathrm{end} - \mathrm{start}) \frac{\mathrm{now} - \mathrm{begin}}{\mathrm{until} - \mathrm{begin}} $$

    Args:
        start: The value up to ``begin``.
        end: The value from ``until`` on.
        until: When the end is reached, after ``begin``.
        begin: When the start is left, 0 or later.
        unit: The unit of ``begin`` and ``until``: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.

    Examples:
        >>> Linear(0.0, 1.0, until=10).value(step=0, epoch=2.5)
        0.25
    """

    def shape(self, fraction: float) -> float:
        return fraction


class Cosine(Ramp):
    r"""Goes from one value to another in half a cosine wave.

    $$ \mathrm{end} + (\mathrm{start} - \mathrm{end})\,(1 + \cos \pi t) / 2 $$
    It is the shape of one period of SGDR ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1608.03983), equation 5).

    Args:
        start: The value up to ``begin``.
        end: The value from ``until`` on.
        until: When the end is reached, after ``begin``.
        begin: When the start is left, 0 or later.
        unit: The unit of ``begin`` and ``until``: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.

    Examples:
        >>> round(Cosine(0.0, 1.0, until=10).value(step=0, epoch=2.5), 4)
        0.1464
    """

    def shape(self, fraction: float) -> float:
        return (1 - math.cos(math.pi * fraction)) / 2


class Step(TimedSchedule):
    """Jumps from value to value at given moments.

    Args:
        start: The value before the first change.
        changes: The value from each moment on: ``{20: 0.5, 40: 0.0}``; moments are above 0.
        unit: The unit of the moments: ``epoch`` or optimizer ``step``.

    Raises:
        ValueError: There is no change, a moment is not above 0, or a value is not finite.

    Examples:
        >>> Step(1.0, {20: 0.5, 40: 0.0}).value(step=0, epoch=25)
        0.5
    """

    def __init__(self, start: float, changes: dict[int, float], unit: Unit = "epoch") -> None:
        super().__init__(unit)
        if not isinstance(changes, Mapping):
            raise wrong_type("changes", changes, f"give a dict of the value from each {unit} on: {{20: 0.5, 40: 0.0}}.")
        if not changes:
            raise ValueError(f"changes is empty; give the value from some {unit} on, such as {{20: 0.5}}.")
        given = {check_number(f"a moment of changes, {moment!r},", moment): value for moment, value in changes.items()}
        first = min(given)
        if first <= 0:
            raise ValueError(
                f"a change at {unit} {first:g} has no effect: changes must be above 0; use start for the initial value."
            )
        self.start = check_number("start", start)
        self.changes = {moment: check_number(f"changes[{moment:g}]", given[moment]) for moment in sorted(given)}

    def value(self, step: int, epoch: float) -> float:
        now = self.now(step, epoch)
        return next((value for moment, value in reversed(self.changes.items()) if moment <= now), self.start)

    def span(self) -> tuple[Unit, float, float]:
        first = next(iter(self.changes))
        return self.unit, first, first

    def moments(self) -> tuple[float, ...]:
        return tuple(self.changes)

    def bounds(self) -> tuple[float, float]:
        values = [self.start, *self.changes.values()]
        return min(values), max(values)

    def __str__(self) -> str:
        later = [f"{value:g} from {self.unit} {moment:g}" for moment, value in self.changes.items()]
        return ", ".join([f"{self.start:g}", *later])


class Between(TimedSchedule):
    """Holds one value between two moments and another outside: a criterion that begins late or ends early.

    Args:
        value: The value from ``begin`` on and before ``end``.
        begin: When it starts to hold, 0 or later.
        end: When it no longer holds, after ``begin``; it always holds if None.
        outside: The value before and after.
        unit: The unit of the moments: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.

    Examples:
        >>> Between(0.5, begin=10, end=20).value(step=0, epoch=10)
        0.5
    """

    def __init__(
        self, value: float, begin: float = 0.0, end: float | None = None, outside: float = 0.0, unit: Unit = "epoch"
    ) -> None:
        super().__init__(unit)
        self.inside, self.outside = check_number("value", value), check_number("outside", outside)
        self.begin = check_number("begin", begin, least=0)
        self.end = None if end is None else _later(self.begin, "end", as_float("end", end))

    def value(self, step: int, epoch: float) -> float:
        now = self.now(step, epoch)
        return self.inside if now >= self.begin and (self.end is None or now < self.end) else self.outside

    def span(self) -> tuple[Unit, float, float]:
        return self.unit, self.begin, self.begin

    def moments(self) -> tuple[float, ...]:
        return (self.begin,) if self.end is None else (self.begin, self.end)

    def bounds(self) -> tuple[float, float]:
        outside = self.inside if self.begin == 0 and self.end is None else self.outside  # it is never outside
        return min(self.inside, outside), max(self.inside, outside)

    def __str__(self) -> str:
        end = "on" if self.end is None else f"to {self.end:g}"
        return f"{self.inside:g} from {self.unit} {self.begin:g} {end}, {self.outside:g} outside"


def _later(begin: float, last: str, end: float) -> float:
    """Return the second of two moments, which must be after the first."""
    if not end > begin:
        raise ValueError(f"{last} must come after begin: {last} is {end:g} and begin is {begin:g}.")
    return end
