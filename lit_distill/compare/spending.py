"""Spends a budget: trains a comparison's runs on, rung by rung, and says what was chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_distill.compare.budget import Chosen, FullGrid, Halving, Stage
from lit_distill.compare.halving import Curve, Standing
from lit_distill.compare.plan import ComparisonPlan
from lit_distill.compare.running import Comparison, Key, Outcome
from lit_distill.compare.tasks import Run, advance, clear
from lit_distill.compare.training import validation_interval
from lit_distill.compare.workers import Piece
from lit_distill.files.whole_file import write_whole
from lit_distill.utils.names import count


def spend(comparison: Comparison, share: float, jobs: int | None = None) -> tuple[Outcome, Chosen]:
    """Choose each student's teacher and method at a share of the full grid's epochs.

    What was trained before is not trained again; what a kill interrupts goes on from there.

    Args:
        comparison: A plan's.
        share: Of the grid's epochs, above 0 and below 1.
        jobs: How many runs at once; one for each GPU or core if None.

    Returns:
        The results of the chosen runs and of the students without a teacher, and how they were chosen.

    Raises:
        ValueError: The share is too small, or a method of the plan cannot be stopped half-way.
        RuntimeError: All choices of a student failed.
        ImportError: Optuna is missing.
    """
    grid, folder = grid_of(comparison), comparison.plan.folder / "budget"
    with comparison.alone():
        stages = _Stages(comparison, folder / "curves", jobs)
        chosen = Halving(grid, share, stages, folder / "optuna.log").run()
        stages.clear()
    planned = frozenset(comparison.run_of(stage.choice, stage.seed).key for stage in chosen.finals)
    return Outcome(comparison.results, planned, stages.failed), chosen


def grid_of(comparison: Comparison) -> FullGrid:
    """Return the full grid of a plan.

    Raises:
        ValueError: A method is a whole config or a chain of fits, which has its own number of epochs.
    """
    plan = comparison.plan
    whole = [method.name for method in plan.methods.values() if method.kind != "method"]
    if whole:
        raise ValueError(
            f"{comparison.where}: a budget stops runs half-way, and {whole[0]!r} is a whole config with its own epochs. Leave "
            "it out (--only), or compare without a budget."
        )
    choices = tuple(one.choice for one in comparison.checks.choices)
    multiple = next((method for method in plan.methods.values() if method.found_by), None)
    if multiple:
        raise ValueError(
            f"{comparison.where}: {multiple.name!r} multiplies weights that another run finds by its end, and a budget "
            "stops runs half-way. Leave it out (--only), or compare without a budget."
        )
    return FullGrid(choices, plan.seeds, plan.epochs, validated_every(plan))


def validated_every(plan: ComparisonPlan) -> int:
    """Return after how many epochs a plan's runs are validated."""
    trainers: list[Mapping[str, Any]] = [section.get("trainer") or {} for section in plan.base]
    given = next((one["check_val_every_n_epoch"] for one in reversed(trainers) if "check_val_every_n_epoch" in one), 1)
    return int(given) if isinstance(given, int) and given > 1 else validation_interval(plan.epochs)


class _Stages:
    """Trains runs on; what is known of them lies in a folder, a file for each.

    Args:
        comparison: A plan's.
        folder: For the validation scores of runs that are not finished.
        jobs: How many at once.
    """

    def __init__(self, comparison: Comparison, folder: Path, jobs: int | None) -> None:
        self.comparison, self.folder, self.jobs = comparison, folder, jobs
        self.failed: dict[Key, str] = {}
        self._paused: dict[Key, Run] = {}

    def __call__(self, stages: Sequence[Stage]) -> list[Curve]:
        runs = {stage: self.comparison.run_of(stage.choice, stage.seed) for stage in stages}
        whole = [run for stage, run in runs.items() if stage.until >= self.comparison.plan.epochs]
        self.failed |= self.comparison.finish(whole, self.jobs)
        parts = {stage: run for stage, run in runs.items() if run not in whole}
        missing = {
            f"{run.words}, to epoch {stage.until}": (stage, run) for stage, run in parts.items() if self._misses(stage)
        }
        pieces = [
            Piece(name, advance, (self.comparison.plan, run, stage.until), self.comparison.needs(run))
            for name, (stage, run) in missing.items()
        ]

        def keep(name: str, curve: Any) -> str:
            run = missing[name][1]
            self._paused[run.key] = run
            self._write(run, curve)
            return f"{curve[-1][1]:.4f}" if curve else "not validated"

        failed = self.comparison.work(
            pieces, keep, self.jobs, self.comparison.untrained([run for _, run in missing.values()])
        )
        self.failed |= {missing[name][1].key: why for name, why in failed.items() if name in missing}
        return [self._curve(runs[stage]) for stage in stages]

    def clear(self) -> None:
        """Remove the checkpoints of runs that do not go on; their scores stay."""
        for run in self._paused.values():
            clear(self.comparison.plan, run)

    def _misses(self, stage: Stage) -> bool:
        curve = self._curve(self.comparison.run_of(stage.choice, stage.seed))
        return not curve or curve[-1][0] < stage.until

    def _curve(self, run: Run) -> Curve:
        """Return a run's validation scores so far."""
        if run.key in self.failed:
            return ()
        found = self.comparison.results.of(*run.key)
        if found:
            return found[0].curve
        path = self.folder / f"{run.stem}.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
        if content.get("settings") != self.comparison.digest_of(run.choice):
            return ()
        return tuple((int(epoch), float(score)) for epoch, score in content["curve"])

    def _write(self, run: Run, curve: Curve) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"settings": self.comparison.digest_of(run.choice), "curve": [list(point) for point in curve]}
        write_whole(self.folder / f"{run.stem}.json", json.dumps(content).encode())


def chosen_text(chosen: Chosen) -> str:
    """Return in words what was chosen, and how."""
    lines = [
        f"Chosen with {chosen.epochs:,} of the full grid's {chosen.size:,} epochs ({chosen.share:.1%}), teachers' not counted:"
    ]
    for student, standings in chosen.standings.items():
        rungs = chosen.ladders[student].rungs
        way = ", then ".join(
            f"{rung.choices} to epoch {rung.epochs} with {count(rung.seeds, 'seed')}" for rung in rungs
        )
        last = [one for one in standings if one.rung == rungs[-1]]
        lines += [f"  {student}: {_in_words(last[0])}", f"    of {way}"]
        lines += [f"    next: {_in_words(one)}" for one in last[1:3]]
    return "\n".join(lines)


def _in_words(standing: Standing) -> str:
    choice = standing.choice
    taught = f"{choice.method} from {choice.teacher}" if choice.teacher else choice.method
    return f"{taught} (validation {standing.score:.4f})"
