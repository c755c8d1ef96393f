"""How scores, times and sizes are written: with as many digits as they are known to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lit_distill.compare.results import Result


@dataclass(frozen=True)
class Units:
    """How the scores of a comparison are written.

    Attributes:
        metric: What the scores are.
        percent: Whether they are shares, written in percent.
        decimals: Digits after the point.

    Example:
        >>> units = Units("accuracy", percent=True, decimals=1)
        >>> units.score(0.9312), units.difference(-0.004), units.interval((-0.01, 0.002))
        ('93.1 %', '-0.4 points', '[-1.0, +0.2]')
    """

    metric: str
    percent: bool
    decimals: int

    @classmethod
    def of(cls, results: Sequence[Result], deviations: Sequence[float] = ()) -> Units:
        """Choose them: percent for accuracies in [0, 1], and as many digits as the spread of the scores gives a meaning.

        Args:
            results: Not empty.
            deviations: Standard deviations over seeds.
        """
        metric = results[0].metric.removesuffix("/student")
        scores = [one.score for one in results if math.isfinite(one.score)]
        if scores and max(scores) <= 0 > min(scores):
            metric = f"minus {metric}"
        if "accuracy" in metric and all(0 <= score <= 1 for score in scores):
            fine = bool(deviations) and statistics.median(deviations) < 0.002
            return cls(metric, percent=True, decimals=2 if fine else 1)
        apart = max(scores) - min(scores) if scores else 0.0
        decimals = 2 - math.floor(math.log10(apart)) if apart > 0 else 4
        return cls(metric, percent=False, decimals=min(9, max(0, decimals)))

    @property
    def label(self) -> str:
        """The metric with its unit, for the head of a column or an axis."""
        return f"{self.metric}, %" if self.percent else self.metric

    def number(self, value: float) -> str:
        """Return a score, or a standard deviation, as its column has it."""
        return f"{self.shown(value):.{self.decimals}f}"

    def signed(self, value: float) -> str:
        """Return a difference as its column has it."""
        return f"{self.shown(value):+.{self.decimals}f}"

    def score(self, value: float) -> str:
        """Return a score as a sentence has it."""
        return f"{self.number(value)} %" if self.percent else self.number(value)

    def difference(self, value: float) -> str:
        """Return a difference as a sentence has it."""
        return f"{self.signed(value)} points" if self.percent else self.signed(value)

    def interval(self, ends: tuple[float, float]) -> str:
        """Return an interval of differences."""
        return f"[{self.signed(ends[0])}, {self.signed(ends[1])}]"

    def shown(self, value: float) -> float:
        """Return a score, or a difference, in the unit that it is shown in; what rounds to 0 has no minus sign."""
        return round(100 * value if self.percent else value, self.decimals) + 0.0


def size(number: float) -> str:
    """Return a size in bytes.

    Example:
        >>> size(15112), size(2_500_000)
        ('15.1 kB', '2.5 MB')
    """
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if number >= 10**power:
            return f"{number / 10**power:.1f} {unit}"
    return f"{number:.0f} bytes"


def seconds(number: float) -> str:
    """Return a training time.

    Example:
        >>> seconds(2.34), seconds(75), seconds(7500)
        ('2.3 s', '75 s', '125 min')
    """
    if number < 1000:
        return f"{number:.1f} s" if number < 10 else f"{number:.0f} s"
    return f"{number / 60:.0f} min"


def latency_text(number: float) -> str:
    """Return a latency; in words if it was not measured.

    Example:
        >>> latency_text(0.2345), latency_text(2345), latency_text(float("nan"))
        ('0.234 ms', '2,345 ms', 'no latency')
    """
    if not math.isfinite(number):
        return "no latency"
    return f"{number:,.0f} ms" if number >= 1000 else f"{number:.3g} ms"
