"""What a number of comparisons tell together: each is judged knowing how many were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lit_distill.compare.statistics import Difference

LEVEL = 0.05


class Verdict(StrEnum):
    """What a difference tells."""

    BETTER = "better"
    BETTER_ALONE = "better?"
    OPEN = "open"
    WORSE_ALONE = "worse?"
    WORSE = "worse"


_REVERSED = {
    Verdict.BETTER: Verdict.WORSE,
    Verdict.BETTER_ALONE: Verdict.WORSE_ALONE,
    Verdict.WORSE_ALONE: Verdict.BETTER_ALONE,
    Verdict.WORSE: Verdict.BETTER,
}


@dataclass(frozen=True)
class Judged:
    """A difference, and what it tells among all that were looked at.

    Attributes:
        difference: As measured.
        verdict: ``better?`` and ``worse?`` where the difference would tell if it were the only one.
        seeds_to_tell: Number of seeds that would tell, as in ``Difference.seeds_to_tell``.
    """

    difference: Difference
    verdict: Verdict
    seeds_to_tell: int | None

    @property
    def decided(self) -> bool:
        """Whether the verdict holds for all differences together."""
        return self.verdict in (Verdict.BETTER, Verdict.WORSE)

    @property
    def reversed(self) -> Judged:
        """The same comparison from the other side."""
        difference = Difference({seed: -value for seed, value in self.difference.by_seed.items()})
        return Judged(difference, _REVERSED.get(self.verdict, self.verdict), self.seeds_to_tell)

    @property
    def measured(self) -> bool:
        """Whether the difference has an interval."""
        return self.difference.p_value is not None


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values that hold for all comparisons together, by Holm's method.

    Whatever is below 0.05 afterwards is wrong anywhere in at most 5 % of reports, however the comparisons depend on each
    other (Holm, A simple sequentially rejective multiple test procedure, 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = largest
    return adjusted


def judge(differences: Sequence[Difference]) -> list[Judged]:
    """Judge differences from 0 that were looked at together.

    Example:
        >>> [one.verdict.value for one in judge([Difference({0: 0.10, 1: 0.11, 2: 0.12}), Difference({0: 0.1})])]
        ['better', 'open']
    """
    p_values = [one.p_value for one in differences]
    known = [p for p in p_values if p is not None]
    together = iter(holm(known))
    level = LEVEL / max(1, len(known))
    return [
        Judged(one, Verdict.OPEN, None)
        if p is None
        else Judged(one, _verdict(one.mean, p, next(together)), one.seeds_to_tell(level))
        for one, p in zip(differences, p_values, strict=True)
    ]


def _verdict(mean: float, p: float, together: float) -> Verdict:
    if p >= LEVEL:
        return Verdict.OPEN
    if mean > 0:
        return Verdict.BETTER if together < LEVEL else Verdict.BETTER_ALONE
    return Verdict.WORSE if together < LEVEL else Verdict.WORSE_ALONE
