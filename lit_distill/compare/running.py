"""Runs a comparison: checks it, trains what is missing, and keeps the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock, Timeout

from lit_distill.compare.checking import Checks, check_plan
from lit_distill.compare.plan import Choice, ComparisonPlan
from lit_distill.compare.results import Result, Results
from lit_distill.compare.settings import teachers_of
from lit_distill.compare.tasks import Run, clear, perform, score_of_teacher, train_teacher
from lit_distill.compare.training import OnEpoch
from lit_distill.compare.workers import Failure, Piece, default_jobs, work
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
        self.results = Results(plan.folder / "runs")
        self._by_choice = {checked.choice: checked for checked in self.checks.choices}
        self._teachers: dict[str, dict[str, Any]] = {}
        self._read_teachers(again)
        self._refuse_changed(again)

    def run(self, jobs: int | None = None) -> Outcome:
        """Train and test what is missing.

        Args:
            jobs: How many at once; one for each GPU or core if None. The figures do not depend on it.
        """
        device = next((one.device for one in self.checks.choices), "cpu")
        count = jobs or default_jobs(device, self.plan.threads)
        try:
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.plan.folder / "compare.lock", timeout=0):
                return self._work(count)
        except Timeout as error:
            raise ValueError(
                f"another comparison is running in {self.plan.folder} (it holds {error.lock_file})."
            ) from error

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
        run = self._run(choice, seed)
        return self._keep(run, perform(self.plan, run, on_epoch))

    def _work(self, jobs: int) -> Outcome:
        runs = [self._run(one.choice, seed) for seed in self.plan.seeds for one in self.checks.choices]
        waiting = {run.words: run for run in runs if not self.results.has(*run.key)}
        for run in runs:
            if run.words not in waiting:  # a kill may have come between the result and this
                clear(self.plan, run)
        pieces = self._pieces(waiting)
        failed: dict[Key, str] = {}
        if pieces:
            at_once = min(jobs, len(pieces))
            self.say(f"{len(pieces)} runs, {at_once} at once, with {self.plan.threads} CPU threads each.")
        for number, (piece, outcome) in enumerate(work(pieces, jobs, self.plan.threads), start=1):
            if isinstance(outcome, Failure):
                self._log(piece.name, outcome)
                line = f"failed: {outcome.reason}"
                if piece.name in waiting:
                    failed[waiting[piece.name].key] = outcome.reason
            elif piece.name in waiting:
                result = self._keep(waiting[piece.name], outcome)
                line = f"{result.score:.4f} ({result.seconds:.1f} s)"
            else:
                self._keep_teacher(piece.name.removeprefix("teacher "), outcome)
                line = f"{_in_words(score_of_teacher(self.plan, outcome))} ({outcome['seconds']:.1f} s)"
            self.say(f"[{number}/{len(pieces)}] {piece.name}: {line}")
        return Outcome(self.results, frozenset(run.key for run in runs), failed)

    def _pieces(self, waiting: Mapping[str, Run]) -> list[Piece]:
        """Return what there is to do: the teachers that are needed and not trained, and then the runs."""
        needed = {choice: teachers_of(self.plan, choice) for choice in {run.choice for run in waiting.values()}}
        names = {name for found in needed.values() for name in found if name not in self._teachers}
        untrained = [name for name in self.plan.teachers if name in names]
        pieces = [Piece(f"teacher {name}", train_teacher, (self.plan, name)) for name in untrained]
        for name, run in waiting.items():
            before = tuple(f"teacher {one}" for one in needed[run.choice] if one in names)
            pieces.append(Piece(name, perform, (self.plan, run), before))
        return pieces

    def _run(self, choice: Choice, seed: int) -> Run:
        tested = self._teachers.get(choice.teacher)
        score = score_of_teacher(self.plan, tested) if tested is not None else None
        return Run(choice, seed, self._by_choice[choice].measures, score)

    def _keep(self, run: Run, result: Result) -> Result:
        if result.teacher_score is None and run.choice.teacher in self._teachers:  # a run of before it was tested
            result = replace(result, teacher_score=score_of_teacher(self.plan, self._teachers[run.choice.teacher]))
        self.results.add(result, self._by_choice[run.choice].digest)
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
