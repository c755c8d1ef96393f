"""How often does a budget choose what the full grid would? Halvings of stored sweeps, over orders of their seeds.

    python benchmarks/budget.py benchmarks/results/budget-digits.json
    python benchmarks/budget.py benchmarks/results/budget-fashion-mnist.json --share 0.1
    python benchmarks/budget.py runs/compare/digits_budget/results.json    # of the full grid, run without a budget

A file holds every run of a full grid with its validation score along the training. The halving is that of ``lit-distill
compare --budget``; in place of training, it gets the stored scores up to the epoch that it asks for. Each repetition sees the
seeds in another order, of which it uses the first three at most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from measure.report import markdown

from lit_distill.compare.budget import Chosen, FullGrid, Halving, Stage
from lit_distill.compare.halving import Curve
from lit_distill.compare.plan import Choice
from lit_distill.compare.results import CONTROL, Result

WITHIN = 0.3  # points


@dataclass(frozen=True)
class Sweep:
    """A full grid.

    Attributes:
        epochs: Of each run.
        curves: Validation scores by choice and seed, as (epoch, score).
        tests: Test scores by choice and seed.
    """

    epochs: int
    curves: dict[tuple[Choice, int], Curve]
    tests: dict[tuple[Choice, int], float]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All, controls included."""
        return tuple(dict.fromkeys(choice for choice, _ in self.curves))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each choice."""
        return tuple(dict.fromkeys(seed for _, seed in self.curves))

    def mean(self, choice: Choice, test: bool, seeds: Sequence[int]) -> float:
        """Mean score over seeds after the last epoch, in points."""
        scores = [self.tests[choice, seed] if test else self.curves[choice, seed][-1][1] for seed in seeds]
        return 100 * statistics.fmean(scores)

    def behind(self, choice: Choice, test: bool, seeds: Sequence[int]) -> float:
        """Points by which a choice is behind the best of its student, in the mean over seeds."""
        rest = [one for one in self.choices if one.student == choice.student and one.method != CONTROL]
        return max(self.mean(one, test, seeds) for one in rest) - self.mean(choice, test, seeds)


def read(path: Path) -> Sweep:
    content = json.loads(path.read_text())
    if isinstance(content, list):
        return of_results([Result.from_plain(one) for one in content])
    every = content["every"]
    curves: dict[tuple[Choice, int], Curve] = {}
    tests = {}
    for student, teacher, method, seed, test, scores in content["runs"]:
        curve = tuple((every * place, score) for place, score in enumerate(scores, start=1))
        curves[Choice(student, teacher, method), seed] = curve
        tests[Choice(student, teacher, method), seed] = test
    return Sweep(content["epochs"], curves, tests)


def of_results(results: Sequence[Result]) -> Sweep:
    """A full grid that ``lit-distill compare`` has run."""
    runs = {(Choice(*one.run[:3]), one.seed): one for one in results}
    curves: dict[tuple[Choice, int], Curve] = {run: one.curve for run, one in runs.items()}
    return Sweep(results[0].epochs, curves, {run: one.score for run, one in runs.items()})


def replay(sweep: Sweep, order: Sequence[int], share: float) -> Chosen:
    """Halve a stored sweep with its seeds in an order."""
    every = next(iter(sweep.curves.values()))[0][0]

    def advance(stages: Sequence[Stage]) -> list[Curve]:
        known = [sweep.curves[stage.choice, stage.seed] for stage in stages]
        return [[one for one in curve if one[0] <= stage.until] for curve, stage in zip(known, stages, strict=True)]

    with TemporaryDirectory() as folder:
        grid = FullGrid(sweep.choices, tuple(order), sweep.epochs, every)
        return Halving(grid, share, advance, Path(folder) / "optuna.log").run()


def full(sweep: Sweep, order: Sequence[int]) -> dict[str, Choice]:
    """The choices of the full grid: the best validation scores in the mean over the seeds."""
    rest = [one for one in sweep.choices if one.method != CONTROL]
    students = dict.fromkeys(one.student for one in rest)
    return {
        student: max((one for one in rest if one.student == student), key=lambda one: sweep.mean(one, False, order))
        for student in students
    }


def orders(seeds: Sequence[int], used: int, most: int) -> list[tuple[int, ...]]:
    """Different orders of a few of the seeds, drawn with a seed if there are too many."""
    found = list(itertools.permutations(seeds, used))
    return found if len(found) <= most else random.Random(0).sample(found, most)


def row(
    name: str, share: str, sweep: Sweep, found: Sequence[dict[str, Choice]], used: Sequence[Sequence[int]]
) -> list[str]:
    """Share of choices within reach of the best, and the mean distance, by validation, by test and on other seeds."""
    cells = [name, share]
    rest = [[seed for seed in sweep.seeds if seed not in order] for order in used]
    for test, judges in ((False, [sweep.seeds] * len(used)), (False, rest), (True, [sweep.seeds] * len(used))):
        judged = [
            sweep.behind(choice, test, seeds)
            for choices, seeds in zip(found, judges, strict=True)
            if seeds
            for choice in choices.values()
        ]
        hits = statistics.fmean(gap <= WITHIN + 1e-9 for gap in judged) if judged else float("nan")
        cells.append(f"{hits:.0%}, {statistics.fmean(judged):.2f}" if judged else "-")
    return cells


def noise(sweep: Sweep) -> float:
    """The standard deviation over seeds of a choice's validation score, less what its seed does to all, in points."""
    deviations = []
    for student in dict.fromkeys(one.student for one in sweep.choices):
        rest = [one for one in sweep.choices if one.student == student and one.method != CONTROL]
        shift = {seed: statistics.fmean(sweep.mean(one, False, [seed]) for one in rest) for seed in sweep.seeds}
        deviations += [
            statistics.stdev(sweep.mean(one, False, [seed]) - shift[seed] for seed in sweep.seeds) for one in rest
        ]
    return statistics.fmean(deviations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--seeds", type=int, default=3, help="of the grid that the budget is a share of (default: 3)")
    parser.add_argument("--repetitions", type=int, default=60, help="at most (default: 60)")
    options = parser.parse_args()
    sweep = read(options.sweep)
    tried = orders(sweep.seeds, min(options.seeds, len(sweep.seeds)), options.repetitions)
    chosen = [replay(sweep, order, options.share) for order in tried]
    students = list(chosen[0].standings)
    rows = [
        row(
            f"budget {options.share:g}",
            f"{max(one.share for one in chosen):.1%}",
            sweep,
            [{student: one.choice(student) for student in students} for one in chosen],
            tried,
        ),
        row(
            "full grid, one seed", f"{1 / options.seeds:.1%}", sweep, [full(sweep, order[:1]) for order in tried], tried
        ),
        row(f"full grid, {options.seeds} seeds", "100%", sweep, [full(sweep, order) for order in tried], tried),
    ]
    head = ["choice", "epochs", "validation, all seeds", "validation, other seeds", "test, all seeds"]
    print(
        f"{len(students)} students, {len(sweep.choices)} choices, {len(sweep.seeds)} seeds, {len(tried)} repetitions\n"
    )
    print(
        f"Within {WITHIN} points of the best, and points behind it in the mean, judged by:\n\n{markdown(head, rows)}\n"
    )
    print(f"Noise: {noise(sweep):.2f} points (standard deviation of a validation score over seeds).")
    for student, ladder in chosen[0].ladders.items():
        print(f"{student}: {', '.join(f'{one.choices} x {one.seeds} seeds to {one.epochs}' for one in ladder.rungs)}")


if __name__ == "__main__":
    main()
