"""Values that follow the training: a weight or a temperature that rises, falls, begins or ends.

A schedule has no state. Its value is a function of the progress alone, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from lit_distill.utils.arguments import as_float, check_choice, check_number, wrong_type

Unit = Literal["epoch", "step"]
UNITS: tuple[Unit, ...] = ("epoch", "step")


class Schedule(ABC):
    """A number as a function of the training's progress: the value itself, not a factor of another."""

    @abstractmethod
    def value(self, step: int, epoch: float) -> float:
        """The value in force for a batch.

        Args:
            step: Number of optimizer steps so far.
            epoch: Number of epochs so far, with the part of the present one that is done: 2.5 in the middle of the third.
        """

    def bounds(self) -> tuple[float, float] | None:
        """The smallest and the largest value that it can take, or None where that is not known.

        What is known is checked before the training starts.
        """
        return None

    def span(self) -> tuple[Unit, float, float] | None:
        """The unit of its moments, when it first changes, and when the first change is done; None where that is not known."""
        return None


class TimedSchedule(Schedule):
    """A schedule in epochs or in optimizer steps.

    Args:
        unit: ``epoch`` or ``step``.

    Raises:
        ValueError: The unit is neither.
    """

    def __init__(self, unit: Unit) -> None:
        check_choice("unit", unit, UNITS)
        self.unit: Unit = unit

    def now(self, step: int, epoch: float) -> float:
        """The progress in the schedule's unit."""
        return float(step) if self.unit == "step" else epoch


class Ramp(TimedSchedule):
    """Goes from one value to another between two moments, and stays there; subclasses give the way.

    Args:
        start: The value up to ``begin``.
        end: The value from ``until`` on.
        until: When the end is reached, after ``begin``.
        begin: When the start is left, 0 or later.
        unit: What ``begin`` and ``until`` count: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.
    """

    def __init__(self, start: float, end: float, until: float, begin: float = 0.0, unit: Unit = "epoch") -> None:
        super().__init__(unit)
        self.start, self.end = check_number("start", start), check_number("end", end)
        self.begin = check_number("begin", begin, least=0)
        self.until = _later("begin", self.begin, "until", check_number("until", until))

    @abstractmethod
    def shape(self, fraction: float) -> float:
        """How much of the way is done, from 0 to 1, when a ``fraction`` of the time is gone."""

    def value(self, step: int, epoch: float) -> float:
        now = self.now(step, epoch)
        if now <= self.begin:
            return self.start
        if now >= self.until:
            return self.end
        return self.start + (self.end - self.start) * self.shape((now - self.begin) / (self.until - self.begin))

    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def span(self) -> tuple[Unit, float, float] | None:
        return (self.unit, self.begin, self.until) if self.start != self.end else None

    def __str__(self) -> str:
        way = type(self).__name__.lower()
        return f"{self.start:g} to {self.end:g}, {way}, {self.unit}s {self.begin:g} to {self.until:g}"


class Linear(Ramp):
    """Goes from one value to another in a straight line: ``start + (end - start) t`` with ``t`` from 0 to 1.

    Args:
        start: The value up to ``begin``.
        end: The value from ``until`` on.
        until: When the end is reached, after ``begin``.
        begin: When the start is left, 0 or later.
        unit: What ``begin`` and ``until`` count: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.
    """

    def shape(self, fraction: float) -> float:
        return fraction


class Cosine(Ramp):
    """Goes from one value to another in half a cosine wave: ``end + (start - end) (1 + cos(pi t)) / 2``.

    It is the shape of Loshchilov and Hutter 2017, *SGDR*, equation 5, with one period.

    Args:
        start: The value up to ``begin``.
        end: The value from ``until`` on.
        until: When the end is reached, after ``begin``.
        begin: When the start is left, 0 or later.
        unit: What ``begin`` and ``until`` count: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.
    """

    def shape(self, fraction: float) -> float:
        return (1 - math.cos(math.pi * fraction)) / 2


class Step(TimedSchedule):
    """Jumps from value to value at given moments.

    Args:
        start: The value before the first change.
        changes: The value from each moment on: ``{20: 0.5, 40: 0.0}``; moments are above 0.
        unit: What the moments count: ``epoch`` or optimizer ``step``.

    Raises:
        ValueError: There is no change, a moment is not above 0, or a value is not finite.
    """

    def __init__(self, start: float, changes: dict[int, float], unit: Unit = "epoch") -> None:
        super().__init__(unit)
        if not isinstance(changes, Mapping):
            raise wrong_type("changes", changes, f"give a dict of the value from each {unit} on: {{20: 0.5, 40: 0.0}}.")
        if not changes:
            raise ValueError(f"changes is empty; give the value from some {unit} on, such as {{20: 0.5}}.")
        moments = {check_number(f"a moment of changes, {moment!r},", moment): moment for moment in changes}
        for moment in moments:
            if moment <= 0:
                raise ValueError(
                    f"a change at {unit} {moment:g} is none: moments are above 0, and start holds before them."
                )
        self.start = check_number("start", start)
        self.changes = {
            moment: check_number(f"changes[{moment:g}]", changes[moments[moment]]) for moment in sorted(moments)
        }

    def value(self, step: int, epoch: float) -> float:
        now = self.now(step, epoch)
        return next((value for moment, value in reversed(self.changes.items()) if moment <= now), self.start)

    def span(self) -> tuple[Unit, float, float]:
        first = next(iter(self.changes))
        return self.unit, first, first

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
        end: When it no longer holds, after ``begin``; never where None.
        outside: The value before and after.
        unit: What the moments count: ``epoch`` (fractions allowed) or optimizer ``step``.

    Raises:
        ValueError: A value is not finite, or the moments are not in order.
    """

    def __init__(
        self, value: float, begin: float = 0.0, end: float | None = None, outside: float = 0.0, unit: Unit = "epoch"
    ) -> None:
        super().__init__(unit)
        self.inside, self.outside = check_number("value", value), check_number("outside", outside)
        self.begin = check_number("begin", begin, least=0)
        self.end = None if end is None else _later("begin", self.begin, "end", as_float("end", end))

    def value(self, step: int, epoch: float) -> float:
        now = self.now(step, epoch)
        return self.inside if now >= self.begin and (self.end is None or now < self.end) else self.outside

    def span(self) -> tuple[Unit, float, float]:
        return self.unit, self.begin, self.begin

    def bounds(self) -> tuple[float, float]:
        always = self.begin == 0 and self.end is None
        values = [self.inside] if always else [self.inside, self.outside]
        return min(values), max(values)

    def __str__(self) -> str:
        end = "on" if self.end is None else f"to {self.end:g}"
        return f"{self.inside:g} from {self.unit} {self.begin:g} {end}, {self.outside:g} outside"


def _later(first: str, begin: float, last: str, end: float) -> float:
    """The second of two moments.

    Raises:
        ValueError: It is not after the first.
    """
    if not end > begin:
        raise ValueError(f"{last} must come after {first}: {last} is {end:g} and {first} is {begin:g}.")
    return end
