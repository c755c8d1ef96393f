"""Successive halving: how far each rung trains a student's choices, with how many seeds, and how many go on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_distill.compare.plan import Choice

Curve = Sequence[tuple[int, float]]

# Of a student's choices, the share in each rung, and how many times the first rung's epochs each has had then, over its seeds.
# Further seeds come before further epochs: among the best, seeds differ by more than the rest of a training changes.
_SHARES = (1.0, 0.4, 0.2)
_GROWTH = (1.0, 2.0, 4.5)


@dataclass(frozen=True)
class Rung:
    """A stage of the halving.

    Attributes:
        choices: How many of a student's choices take part, at least 1.
        seeds: With how many seeds each is trained.
        epochs: How far, from the start.
    """

    choices: int
    seeds: int
    epochs: int


@dataclass(frozen=True)
class Standing:
    """How far a choice came.

    Attributes:
        choice: Student, teacher and method.
        rung: The last rung that it took part in.
        score: On the validation data there, in the mean of its seeds; NaN if a training failed.
    """

    choice: Choice
    rung: Rung
    score: float


@dataclass(frozen=True)
class Ladder:
    """A student's rungs, and what follows.

    Attributes:
        rungs: From all choices to a few; the best of the last one is chosen.
        finals: With how many seeds the chosen one, and the student without a teacher, train to the end.
        epochs: Of a whole run.

    Example:
        >>> Ladder((Rung(8, 1, 2), Rung(3, 2, 4)), finals=1, epochs=10).cost
        50
    """

    rungs: tuple[Rung, ...]
    finals: int
    epochs: int

    @property
    def cost(self) -> int:
        """The epochs that are trained in all, where every run goes on from where the rung before left it."""
        spent = [one.seeds * one.epochs for one in self.rungs]
        halving = sum(
            rung.choices * (now - before) for rung, now, before in zip(self.rungs, spent, [0, *spent], strict=False)
        )
        begun = sum(self.rungs[-1].epochs for seed in range(self.finals) if seed < self.rungs[-1].seeds)
        return halving + 2 * self.finals * self.epochs - begun


def plan_ladder(choices: int, epochs: int, seeds: int, allotted: int, every: int = 1) -> Ladder:
    """Return the rungs with the longest first one that cost no more epochs than allotted.

    Args:
        choices: Of one student, at least 1.
        epochs: Of a run.
        seeds: Of the plan.
        allotted: Epochs for all, the student's training without a teacher included.
        every: Epochs between two validations, where rungs end; divides ``epochs``.

    Raises:
        ValueError: Even the shortest first rung costs more.

    Example:
        >>> ladder = plan_ladder(choices=20, epochs=20, seeds=3, allotted=189, every=2)
        >>> ladder.rungs, ladder.cost
        ((Rung(choices=20, seeds=1, epochs=4), Rung(choices=8, seeds=2, epochs=4), Rung(choices=4, seeds=3, epochs=6)), 186)
    """
    firsts = range(every, epochs + 1, every)
    affordable = [one for one in (_ladder(choices, epochs, seeds, n, every) for n in firsts) if one.cost <= allotted]
    if not affordable:
        least = smallest_cost(choices, epochs, seeds, every)
        raise ValueError(f"{choices} choices cost at least {least} epochs, and {allotted} are allotted.")
    ladder = affordable[-1]
    longer = [replace(ladder, finals=finals) for finals in range(1, seeds + 1)]
    return [one for one in longer if one.cost <= allotted][-1]


def smallest_cost(choices: int, epochs: int, seeds: int, every: int = 1) -> int:
    """Return the fewest epochs that ``plan_ladder`` can be allotted."""
    return _ladder(choices, epochs, seeds, every, every).cost


def _ladder(choices: int, epochs: int, seeds: int, first: int, every: int) -> Ladder:
    """Return the rungs that begin with a number of epochs."""
    rungs = []
    for place, (share, growth) in enumerate(zip(_SHARES, _GROWTH, strict=True)):
        used = min(seeds, place + 1)
        end = min(epochs, max(first, round(growth * first / used / every) * every))
        rungs.append(Rung(max(min(2, choices), round(share * choices)), used, end))
    return Ladder(tuple(rungs), 1, epochs)


def score_at(rung: Rung, curves: Sequence[Curve]) -> float:
    """Return a choice's score at a rung: on the validation data, in the mean of its seeds.

    Args:
        rung: The rung.
        curves: The choice's validation scores as (epoch, score), for each seed. NaN is returned if one ends early.
    """
    return statistics.fmean(dict(curve).get(rung.epochs, math.nan) for curve in curves)


def comparable(score: float) -> float:
    """Return a score to sort by: one that is NaN comes last."""
    return -math.inf if math.isnan(score) else score
