"""Means over seeds, and differences between choices that are paired by seed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lit_distill.compare.results import CONTROL, Result
from lit_distill.compare.student_t import quantile, two_sided_p

_POWER = 0.8
MOST_SEEDS = 200  # more than anybody trains to choose a teacher
_EQUAL = 1e-9  # scores are shares of a test set, and so apart by more than this or equal


@dataclass(frozen=True)
class Difference:
    """The difference of two scores, measured with the same seeds.

    Attributes:
        by_seed: The difference with each seed, at least one.

    Example:
        >>> gain = Difference({0: 0.03, 1: 0.01, 2: 0.02})
        >>> round(gain.mean, 3), [round(end, 4) for end in gain.interval()], gain.seeds_to_tell()
        (0.02, [-0.0048, 0.0448], 5)
    """

    by_seed: Mapping[int, float]

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds; None with one seed."""
        return standard_deviation(self.by_seed.values())

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the t interval of the mean over seeds.

        None with one seed, or if the differences are equal: on a small test set a few seeds agree by chance, and an
        interval of no width would claim that all others would agree too.
        """
        sd = self.sd
        if not sd:
            return None
        half = quantile((1 + confidence) / 2, self.seeds - 1) * sd / math.sqrt(self.seeds)
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float | None:
        """Two-sided p value of the paired t test against a difference of 0; None where there is no interval."""
        sd = self.sd
        return two_sided_p(self.mean * math.sqrt(self.seeds) / sd, self.seeds - 1) if sd else None

    def seeds_to_tell(self, level: float = 0.05) -> int | None:
        """Return how many seeds would tell the difference from 0, if mean and standard deviation stay what they are.

        With so many, a test at ``level`` finds it in 4 of 5 comparisons. None if more than ``MOST_SEEDS`` would be needed,
        or where there is no interval.
        """
        sd = self.sd
        if not sd or not _enough(MOST_SEEDS, self.mean, sd, level):
            return None
        low, high = 1, MOST_SEEDS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _enough(middle, self.mean, sd, level) else (middle, high)
        return high


def _enough(seeds: int, mean: float, sd: float, level: float) -> bool:
    reach = quantile(1 - level / 2, seeds - 1) + quantile(_POWER, seeds - 1)
    return reach * sd / math.sqrt(seeds) <= abs(mean)


def standard_deviation(values: Iterable[float]) -> float | None:
    """Return the standard deviation of a sample; None for one value, exactly 0 where they are equal but for rounding."""
    values = list(values)
    if len(values) < 2:
        return None
    return 0.0 if max(values) - min(values) < _EQUAL else statistics.stdev(values)


@dataclass(frozen=True)
class TableRow:
    """All runs of one student with one teacher and one method.

    Attributes:
        student: Its name.
        teacher: Its name; empty if there is none.
        method: Its name; ``CONTROL`` for the control.
        results: The finished runs by seed; not empty.

    Example:
        >>> runs = [Result("small", "", CONTROL, seed, 0.9 + seed / 100, None, 3.0, (), 10, 40, 0.2, 2) for seed in (0, 1)]
        >>> row = rows_of(runs)[0]
        >>> row.seeds, round(row.mean, 3), round(row.sd, 4)
        ((0, 1), 0.905, 0.0071)
    """

    student: str
    teacher: str
    method: str
    results: Mapping[int, Result]

    @property
    def is_control(self) -> bool:
        """Whether the student was trained without a teacher, as the measure of the others."""
        return self.method == CONTROL

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the finished runs."""
        return tuple(self.results)

    @property
    def mean(self) -> float:
        """Mean score."""
        return statistics.fmean(one.score for one in self.results.values())

    @property
    def sd(self) -> float | None:
        """Standard deviation of the score over the seeds; None with one seed."""
        return standard_deviation(one.score for one in self.results.values())

    @property
    def seconds(self) -> float:
        """Mean training time of a run."""
        return statistics.fmean(one.seconds for one in self.results.values())

    @property
    def latency_ms(self) -> float:
        """Milliseconds for one sample, the median over the runs."""
        return statistics.median(one.latency_ms for one in self.results.values())

    @property
    def size_bytes(self) -> int:
        """Of the student's parameters and buffers."""
        return max(one.size_bytes for one in self.results.values())

    @property
    def parameters(self) -> int:
        """Of the student."""
        return max(one.parameters for one in self.results.values())

    @property
    def epochs(self) -> int:
        """Of each run."""
        return max(one.epochs for one in self.results.values())

    @property
    def taught_by(self) -> tuple[str, str]:
        """The names of teacher and method."""
        return self.teacher, self.method

    @property
    def name(self) -> str:
        """What taught the student, in words."""
        return self.method if self.is_control or not self.teacher else f"{self.method} from {self.teacher}"

    @property
    def full_name(self) -> str:
        """The student and what taught it, in words."""
        return f"{self.student}, {self.name}"

    @property
    def against_teacher(self) -> Difference | None:
        """The student's score less its teacher's; None if the teacher was not tested."""
        gaps = {
            seed: one.score - one.teacher_score
            for seed, one in self.results.items()
            if one.teacher_score is not None and math.isfinite(one.teacher_score)
        }
        return Difference(gaps) if gaps else None

    def against(self, other: TableRow) -> Difference | None:
        """Return this score less another row's, with the seeds that both have; None if they have none in common."""
        common = [seed for seed in self.results if seed in other.results]
        gaps = {seed: self.results[seed].score - other.results[seed].score for seed in common}
        return Difference(gaps) if gaps else None

    def cost(self, other: TableRow) -> float | None:
        """Return the ratio of the training times, over the seeds that both have; None if they have none in common."""
        common = [seed for seed in self.results if seed in other.results]
        own, others = (sum(row.results[seed].seconds for seed in common) for row in (self, other))
        return own / others if others else None


def rows_of(results: Sequence[Result]) -> list[TableRow]:
    """Group the finished runs by student, teacher and method.

    Returns:
        The smallest student first; its control, then the others by falling mean. Runs without a finite
        score, and runs of fewer epochs than another of the same row, are left out.

    Raises:
        ValueError: The results hold scores of several metrics, or a run twice.
    """
    _check(results)
    early = set(map(id, stopped_early(results)))
    grouped: dict[tuple[str, str, str], dict[int, Result]] = {}
    for one in results:
        if math.isfinite(one.score) and id(one) not in early:
            grouped.setdefault(one.run[:3], {})[one.seed] = one
    rows = [TableRow(*key, dict(sorted(runs.items()))) for key, runs in grouped.items()]
    sizes = {row.student: min(one.size_bytes for one in rows if one.student == row.student) for row in rows}
    return sorted(rows, key=lambda row: (sizes[row.student], row.student, not row.is_control, -row.mean))


def stopped_early(results: Sequence[Result]) -> list[Result]:
    """Return the runs of fewer epochs than another run of the same student, teacher and method."""
    longest: dict[tuple[str, str, str], int] = {}
    for one in results:
        longest[one.run[:3]] = max(one.epochs, longest.get(one.run[:3], 0))
    return [one for one in results if one.epochs < longest[one.run[:3]]]


def _check(results: Sequence[Result]) -> None:
    metrics = list(dict.fromkeys(one.metric for one in results))
    if len(metrics) > 1:
        raise ValueError(f"the results hold scores of {' and '.join(metrics)}; compare those of one metric at a time.")
    runs = Counter((one.student, one.teacher, one.method, one.seed, one.epochs) for one in results)
    for (student, teacher, method, seed, _), times in runs.items():
        if times > 1:
            taught = f"{method!r} from {teacher!r}" if teacher else repr(method)
            raise ValueError(f"there are {times} results of {student!r}, {taught}, seed {seed}; give one.")


def control_of(row: TableRow, rows: Sequence[TableRow]) -> TableRow | None:
    """Return the same student's row without a teacher; None if it has no finished run."""
    return next((one for one in rows if one.is_control and one.student == row.student), None)


def students_of(rows: Sequence[TableRow]) -> list[str]:
    """Return the students' names, each once."""
    return list(dict.fromkeys(row.student for row in rows))


def complete(rows: Sequence[TableRow], student: str) -> list[TableRow]:
    """Return a student's rows that have as many seeds as any: the mean of fewer is no match for it."""
    own = [row for row in rows if row.student == student]
    most = max((len(row.seeds) for row in own), default=0)
    return [row for row in own if len(row.seeds) == most]
