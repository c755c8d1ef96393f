"""Chooses a teacher and a method for each student at a share of the full grid's epochs: ``compare --budget``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_distill.compare.halving import Curve, Ladder, Rung, Standing, plan_ladder, score_at, smallest_cost
from lit_distill.compare.plan import Choice
from lit_distill.compare.results import CONTROL

_NO_OPTUNA = "a budget needs Optuna: pip install 'lit-distill[budget]'"


@dataclass(frozen=True)
class Stage:
    """A run to train up to an epoch.

    Attributes:
        choice: Student, teacher and method.
        seed: Of the run.
        until: The last epoch to train, from 1 on.
    """

    choice: Choice
    seed: int
    until: int


# Trains runs on to their epochs, and returns each one's validation scores so far; none for a run that failed.
Advance = Callable[[Sequence[Stage]], Sequence[Curve]]


@dataclass(frozen=True)
class FullGrid:
    """The full grid that a budget is a share of.

    Attributes:
        choices: All, controls included.
        seeds: Of each.
        epochs: Of each run.
        every: Epochs between two validations.
    """

    choices: tuple[Choice, ...]
    seeds: tuple[int, ...]
    epochs: int
    every: int = 1

    @property
    def size(self) -> int:
        """The epochs of all runs."""
        return len(self.choices) * len(self.seeds) * self.epochs

    @property
    def students(self) -> tuple[str, ...]:
        """Those that have something to choose from."""
        return tuple(dict.fromkeys(choice.student for choice in self.choices if choice.method != CONTROL))

    def of(self, student: str) -> list[Choice]:
        """Return a student's choices without the control."""
        return [choice for choice in self.choices if choice.student == student and choice.method != CONTROL]

    def ladders(self, share: float) -> dict[str, Ladder]:
        """Return each student's rungs, within its part of the grid's epochs.

        Raises:
            ValueError: The share is too small; the message says which would do.
        """
        seeds, runs = len(self.seeds), {student: len(self.of(student)) for student in self.students}
        whole = {student: (n + 1) * seeds * self.epochs for student, n in runs.items()}
        least = {student: smallest_cost(n, self.epochs, seeds, self.every) for student, n in runs.items()}
        needed = max(least[student] / whole[student] for student in runs)
        if needed >= 1:
            raise ValueError("a budget has nothing to save here: with so few choices and seeds, train the full grid.")
        if share < needed:
            raise ValueError(
                f"a budget of {share:g} is too small here: {math.ceil(1000 * needed) / 1000:g} of the full grid is the least, "
                f"with {self.every} epochs of every choice, and a whole run of the chosen one and of each student without a "
                "teacher. With more seeds in the plan, the same epochs are a smaller share."
            )
        return {
            student: plan_ladder(n, self.epochs, seeds, int(share * whole[student] + 1e-9), self.every)
            for student, n in runs.items()
        }

    def stages(self, choice: Choice, seeds: int, until: int) -> list[Stage]:
        """Return the runs of a choice with its first seeds, up to an epoch."""
        return [Stage(choice, seed, until) for seed in self.seeds[:seeds]]


@dataclass(frozen=True)
class Chosen:
    """What a budget came to.

    Attributes:
        standings: Of each student's choices, the chosen one first.
        ladders: Of each student.
        finals: The runs that were trained to the end: the chosen ones, and the students without a teacher.
        epochs: That were trained, all in all.
        size: The epochs of the full grid.
    """

    standings: Mapping[str, Sequence[Standing]]
    ladders: Mapping[str, Ladder]
    finals: tuple[Stage, ...]
    epochs: int
    size: int

    @property
    def share(self) -> float:
        """The share of the full grid's epochs that was trained."""
        return self.epochs / self.size

    def choice(self, student: str) -> Choice:
        """Return the teacher and method to take for a student."""
        return self.standings[student][0].choice


class Halving:
    """Finds the best teacher and method of each student by successive halving.

    All choices of a student train for a few epochs; those with the best validation scores go on from there, with further
    seeds and for longer. The best of the last rung is chosen, and trained to the end.

    Args:
        grid: All choices.
        share: Of the grid's epochs that may be trained, controls included.
        advance: Trains runs on. It is asked for a whole rung of all students at once, and may be asked again for what it has
            trained before.
        storage: File for Optuna's study; one that is there is replaced.

    Raises:
        ValueError: The share is too small for the grid.
        ImportError: Optuna is missing.
    """

    def __init__(self, grid: FullGrid, share: float, advance: Advance, storage: Path) -> None:
        try:
            from lit_distill.compare.pruner import Race, open_storage
        except ImportError as error:
            raise ImportError(_NO_OPTUNA) from error
        self.grid, self.ladders, self._advance = grid, grid.ladders(share), advance
        journal = open_storage(storage)
        self._races = {
            student: Race(student, grid.of(student), ladder.rungs, journal) for student, ladder in self.ladders.items()
        }
        self._trained: dict[tuple[Choice, int], int] = {}

    def run(self) -> Chosen:
        """Go through the rungs, and train what was chosen to the end.

        Raises:
            RuntimeError: All choices of a student failed.
        """
        for rungs in zip(*(ladder.rungs for ladder in self.ladders.values()), strict=True):
            self._climb(dict(zip(self.ladders, rungs, strict=True)))
        finals = []
        for student, ladder in self.ladders.items():
            for choice in (self._races[student].left[0], Choice(student, "", CONTROL)):
                finals += self.grid.stages(choice, ladder.finals, self.grid.epochs)
        self._train(finals)
        standings = {student: race.standings() for student, race in self._races.items()}
        return Chosen(standings, self.ladders, tuple(finals), sum(self._trained.values()), self.grid.size)

    def _climb(self, rungs: Mapping[str, Rung]) -> None:
        """Train all students' rungs, and drop what does not go on."""
        wanted = {
            choice: self.grid.stages(choice, rungs[student].seeds, rungs[student].epochs)
            for student, race in self._races.items()
            for choice in race.left
        }
        curves = self._train([stage for stages in wanted.values() for stage in stages])
        for student, race in self._races.items():
            scores = {one: score_at(rungs[student], [curves[stage] for stage in wanted[one]]) for one in race.left}
            race.report(rungs[student], scores)

    def _train(self, stages: Sequence[Stage]) -> dict[Stage, Curve]:
        self._trained.update({(stage.choice, stage.seed): stage.until for stage in stages})
        return dict(zip(stages, self._advance(stages), strict=True))
