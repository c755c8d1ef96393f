"""Runs a comparison: checks it, trains what is missing, and keeps the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from lit_distill.compare.checking import Checks, check_plan
from lit_distill.compare.plan import Choice, ComparisonPlan
from lit_distill.compare.results import RUNS, Result, Results
from lit_distill.compare.settings import teachers_of
from lit_distill.compare.tasks import Run, clear, perform, score_of_teacher, train_teacher
from lit_distill.compare.training import OnEpoch
from lit_distill.compare.workers import Failure, Piece, default_jobs, work
from lit_distill.files.alone import alone_in
from lit_distill.files.whole_file import write_whole

Say = Callable[[str], None]
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        results: Of all runs that were finished, now or before.
        planned: All runs, as (student, teacher, method, seed).
        failed: Why some have no result.
    """

    results: Results
    planned: frozenset[Key]
    failed: Mapping[Key, str]


class Comparison:
    """A plan with what is known of it: what can be built, what was trained before.

    Args:
        plan: The plan.
        where: Its file, for errors.
        again: Make runs again that were made with other settings.
        say: Takes each line about what happens.

    Raises:
        ValueError: Something cannot be built, or was made with other settings.
    """

    def __init__(self, plan: ComparisonPlan, where: str = "the plan", again: bool = False, say: Say = print) -> None:
        self.plan, self.where, self.say = plan, where, say
        self.say(f"Checking {len(plan.choices())} combinations …")
        self.checks: Checks = check_plan(plan, where)
        for choice, reason in self.checks.left_out.items():
            self.say(f"{choice.words}: left out: {reason}")
        self.results = Results(plan.folder / RUNS)
        self._by_choice = {checked.choice: checked for checked in self.checks.choices}
        self._teachers: dict[str, dict[str, Any]] = {}
        self._read_teachers(again)
        self._refuse_changed(again)

    def run(self, jobs: int | None = None) -> Outcome:
        """Train and test what is missing.

        Args:
            jobs: How many at once; one for each GPU or core if None. The figures do not depend on it.
        """
        with self.alone():
            runs = [self.run_of(one.choice, seed) for seed in self.plan.seeds for one in self.checks.choices]
            failed = self.finish(runs, jobs)
            return Outcome(self.results, frozenset(run.key for run in runs), failed)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other comparisons out of the folder.

        Raises:
            ValueError: One is running.
        """
        return alone_in(self.plan.folder, "compare.lock", "comparison")

    def train(self, choice: Choice, seed: int, on_epoch: OnEpoch | None = None) -> Result:
        """Train and test one choice here and now; its teacher first, if that is not trained yet.

        Args:
            choice: Student, teacher and method.
            seed: Of the run.
            on_epoch: Is called with an epoch, from 1 on, and its score on the validation data, higher being better. What it
                raises ends the training.

        Returns:
            The result, which is kept; one that was there before is returned.
        """
        found = self.results.of(choice.student, choice.teacher, choice.method, seed)
        if found:
            return found[0]
        for name in teachers_of(self.plan, choice):
            if name not in self._teachers:
                self._keep_teacher(name, train_teacher(self.plan, name))
        run = self.run_of(choice, seed)
        if finder := self._finder(run):
            self.train(finder.choice, seed)
        return self._keep(run, perform(self.plan, run, on_epoch))

    def finish(self, runs: Sequence[Run], jobs: int | None = None) -> dict[Key, str]:
        """Train and test runs that have no result, keep the results, and return why others failed."""
        waiting = [run for run in runs if not self.results.has(*run.key)]
        for run in runs:
            if run not in waiting:  # a kill may have come between the result and this
                clear(self.plan, run)
        pieces = [Piece(run.words, perform, (self.plan, run), self.needs(run)) for run in waiting]
        by_name = {run.words: run for run in waiting}

        def keep(name: str, result: Any) -> str:
            kept = self._keep(by_name[name], result)
            return f"{kept.score:.4f} ({kept.seconds:.1f} s)"

        failed = self.work(pieces, keep, jobs, self.untrained(waiting))
        return {by_name[name].key: why for name, why in failed.items() if name in by_name}

    def work(
        self, pieces: Sequence[Piece], keep: Callable[[str, Any], str], jobs: int | None, teachers: Sequence[str] = ()
    ) -> dict[str, str]:
        """Do pieces of work, the training of teachers before them, and say what came of each.

        Args:
            pieces: The work.
            keep: Takes a piece's name and outcome, and returns it in words.
            jobs: How many at once; one for each GPU or core if None.
            teachers: To train first; those that the pieces need are there or among them.

        Returns:
            Why pieces failed, by name.
        """
        device = next((one.device for one in self.checks.choices), "cpu")
        count = jobs or default_jobs(device, self.plan.threads)
        before = [Piece(f"teacher {name}", train_teacher, (self.plan, name)) for name in teachers]
        whole, failed = [*before, *pieces], dict[str, str]()
        if whole:
            self.say(f"{len(whole)} runs, {min(count, len(whole))} at once, with {self.plan.threads} CPU threads each.")
        for number, (piece, outcome) in enumerate(work(whole, count, self.plan.threads), start=1):
            if isinstance(outcome, Failure):
                self._log(piece.name, outcome)
                failed[piece.name] = outcome.reason
                line = f"failed: {outcome.reason}"
            elif piece in before:
                self._keep_teacher(piece.name.removeprefix("teacher "), outcome)
                line = f"{_in_words(score_of_teacher(self.plan, outcome))} ({outcome['seconds']:.1f} s)"
            else:
                line = keep(piece.name, outcome)
            self.say(f"[{number}/{len(whole)}] {piece.name}: {line}")
        return failed

    def untrained(self, runs: Sequence[Run]) -> list[str]:
        """Return the teachers that runs need and that are not trained and tested yet."""
        needed = {name for choice in {run.choice for run in runs} for name in teachers_of(self.plan, choice)}
        return [name for name in self.plan.teachers if name in needed and name not in self._teachers]

    def needs(self, run: Run) -> tuple[str, ...]:
        """Return which pieces of work come before a run."""
        finder = self._finder(run)
        before = [] if finder is None or self.results.has(*finder.key) else [finder.words]
        return (*(f"teacher {name}" for name in self.untrained([run])), *before)

    def _finder(self, run: Run) -> Run | None:
        """Return the run that finds the weights which this one multiplies."""
        method = self.plan.method_of(run.choice).found_by
        return replace(run, choice=replace(run.choice, method=method)) if method else None

    def run_of(self, choice: Choice, seed: int) -> Run:
        """Return the run of a choice with a seed, with what is known of it."""
        tested = self._teachers.get(choice.teacher)
        score = score_of_teacher(self.plan, tested) if tested is not None else None
        return Run(choice, seed, self._by_choice[choice].measures, score)

    def digest_of(self, choice: Choice) -> str:
        """Return the mark of the settings that a choice is trained with."""
        return self._by_choice[choice].digest

    def _keep(self, run: Run, result: Result) -> Result:
        if result.teacher_score is None and run.choice.teacher in self._teachers:  # a run of before it was tested
            result = replace(result, teacher_score=score_of_teacher(self.plan, self._teachers[run.choice.teacher]))
        self.results.add(result, self.digest_of(run.choice))
        clear(self.plan, run)
        return result

    def _keep_teacher(self, name: str, tested: dict[str, Any]) -> None:
        self._teachers[name] = tested
        content = {"settings": self.checks.teachers[name], **tested}
        path = self.plan.folder / "teachers" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, indent=1).encode())

    def _read_teachers(self, again: bool) -> None:
        """Read what is known of teachers; one that was trained with other settings is refused, or forgotten."""
        for name in self.plan.teachers:
            path = self.plan.folder / "teachers" / f"{name}.json"
            if not path.is_file():
                continue
            content = json.loads(path.read_text())
            if content.pop("settings") == self.checks.teachers[name]:
                self._teachers[name] = content
            elif not again:
                raise self._changed(f"teacher {name}")
            else:
                path.unlink()
                (self.plan.folder / "teachers" / f"{name}.ckpt").unlink(missing_ok=True)

    def _refuse_changed(self, again: bool) -> None:
        for result in list(self.results):
            checked = self._by_choice.get(Choice(result.student, result.teacher, result.method))
            if checked is None or self.results.settings_of(*result.run) == checked.digest:
                continue
            if not again:
                raise self._changed(checked.choice.words)
            self.results.remove(result)

    def _changed(self, what: str) -> ValueError:
        return ValueError(
            f"{self.where}: {what} was trained in {self.plan.folder} with other settings than the plan has now. To train it "
            "again: --again. To keep what is there: another --folder."
        )

    def _log(self, name: str, failure: Failure) -> None:
        path = self.plan.folder / "logs" / "failed.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.write(f"--- {name}\n{failure.trace or failure.reason}\n")


def _in_words(score: float | None) -> str:
    return "cannot be tested on the plan's data" if score is None else f"{score:.4f}"
