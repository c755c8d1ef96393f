"""What a comparison does piece by piece, each in any process: train a teacher, or train and test a choice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_distill.chain.link import Link
from lit_distill.compare.plan import Choice, ComparisonPlan
from lit_distill.compare.results import RUNS, Result, file_stem, read_result
from lit_distill.compare.settings import chain_links, link_words, teacher_test_words, teacher_words, words_of
from lit_distill.compare.training import OnEpoch, Trained, build_fit, said_to, test_figures, train
from lit_distill.files.whole_file import write_whole
from lit_distill.measures.whole import Measures


@dataclass(frozen=True)
class Run:
    """A choice to train with a seed.

    Attributes:
        choice: Student, teacher and method.
        seed: Of the run.
        measures: What the network costs that is tested.
        teacher_score: The teacher's; None if there is none, or if it is not known.
    """

    choice: Choice
    seed: int
    measures: Measures
    teacher_score: float | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The names of student, teacher and method, and the seed."""
        return self.choice.student, self.choice.teacher, self.choice.method, self.seed

    @property
    def stem(self) -> str:
        """The name of the run's files."""
        return file_stem(*self.key)

    @property
    def words(self) -> str:
        """The run in words."""
        return f"{self.choice.words}, seed {self.seed}"


def train_teacher(plan: ComparisonPlan, name: str) -> dict[str, Any]:
    """Train a teacher, if it is to be trained and its checkpoint is not there, and test it on the plan's data.

    Returns:
        ``seconds`` of the training (0 for none), and the test's ``figures``; none if it cannot run on the plan's data.
    """
    teacher = plan.teachers[name]
    seconds = 0.0
    with said_to(plan.folder / "logs" / f"teacher-{name}.txt"):
        if teacher.train and teacher.checkpoint is not None and not teacher.checkpoint.is_file():
            place = plan.folder / "running" / f"teacher-{name}"
            seconds = train(
                teacher_words(plan, teacher), teacher.seed, place, save=teacher.checkpoint, test=False
            ).seconds
            shutil.rmtree(place, ignore_errors=True)
        try:
            made = build_fit(teacher_test_words(plan, name), 0, plan.folder / "running")
            figures = test_figures(made.trainer, made.model, made.datamodule)
        except (ValueError, RuntimeError) as error:  # as one that sees other inputs than the plan's
            print(f"The teacher cannot be tested on the plan's data: {error}")
            figures = {}
    return {"seconds": seconds, "figures": figures}


def perform(plan: ComparisonPlan, run: Run, on_epoch: OnEpoch | None = None) -> Result:
    """Train and test a choice with a seed; a run that was killed goes on from its last checkpoint.

    Args:
        plan: The plan.
        run: What to do.
        on_epoch: Is called with an epoch, from 1 on, and its score on the validation data. What it raises ends the run.

    Raises:
        ValueError: The figure that is the score was not logged.
    """
    figure = plan.figure_of(run.choice)
    sign = 1 if plan.mode == "max" else -1
    signed = None if on_epoch is None else lambda epoch, value: on_epoch(epoch, sign * value)
    place = plan.folder / "running" / run.stem
    with said_to(plan.folder / "logs" / f"{run.stem}.txt"):
        if plan.method_of(run.choice).kind == "chain":
            trained = _train_chain(plan, run, place, figure, signed)
        else:
            words = words_of(plan, run.choice, _found_for(plan, run))
            trained = train(words, run.seed, place, figure, on_epoch=signed)
    if figure not in trained.figures:
        raise ValueError(f"the test logged no {figure}; it logged {', '.join(trained.figures) or 'nothing'}.")
    return _result(plan, run, trained, figure, sign)


def advance(plan: ComparisonPlan, run: Run, until: int) -> tuple[tuple[int, float], ...]:
    """Train a choice with a seed up to an epoch, from where it was left, and return its validation scores so far.

    Args:
        plan: The plan.
        run: What to train.
        until: The last epoch, from 1 on.
    """
    sign = 1 if plan.mode == "max" else -1
    place = plan.folder / "running" / run.stem
    with said_to(plan.folder / "logs" / f"{run.stem}.txt"):
        words, figure = words_of(plan, run.choice), plan.figure_of(run.choice)
        trained = train(words, run.seed, place, figure, test=False, until=until)
    return tuple((epoch, sign * value) for epoch, value in trained.curve)


def clear(plan: ComparisonPlan, run: Run) -> None:
    """Remove what a run left to go on from."""
    shutil.rmtree(plan.folder / "running" / run.stem, ignore_errors=True)


def _found_for(plan: ComparisonPlan, run: Run) -> dict[str, float] | None:
    """Return the weights that a run's method multiplies: those at the end of another run with the same seed."""
    method = plan.method_of(run.choice)
    if not method.found_by:
        return None
    finder = replace(run, choice=replace(run.choice, method=method.found_by))
    result, _ = read_result(plan.folder / RUNS / f"{finder.stem}.json")
    return {name: last for name, (_, last) in result.weights.items()}


def _result(plan: ComparisonPlan, run: Run, trained: Trained, figure: str, sign: int) -> Result:
    taught = trained.figures.get(figure.replace("student", "teacher")) if run.choice.teacher else None
    return Result(
        student=run.choice.student,
        teacher=run.choice.teacher,
        method=run.choice.method,
        seed=run.seed,
        score=sign * trained.figures[figure],
        teacher_score=sign * taught if taught is not None else run.teacher_score,
        seconds=trained.seconds,
        curve=tuple((epoch, sign * value) for epoch, value in trained.curve),
        parameters=run.measures.parameters,
        size_bytes=run.measures.size_bytes,
        latency_ms=run.measures.latency_ms,
        epochs=trained.epochs,
        metric=plan.metric.partition("/")[0],
        weights=trained.weights,
        figures=trained.figures,
    )


def _train_chain(plan: ComparisonPlan, run: Run, place: Path, figure: str, on_epoch: OnEpoch | None) -> Trained:
    """Train a chain's links, of which the last has the run's seed; earlier ones start from other weights."""
    links = chain_links(plan, run.choice, place)
    seconds, trained = 0.0, None
    for number, link in enumerate(links):
        last = number == len(links) - 1
        note = link.folder / "seconds.json"
        if not last and note.is_file():  # written after the checkpoint
            seconds += json.loads(note.read_text())
            continue
        seed = run.seed + 100 * (len(links) - 1 - number)
        trained = _train_link(plan, link, seed, figure, on_epoch if last else None)
        seconds += trained.seconds
        if not last:
            write_whole(note, json.dumps(trained.seconds).encode())
    assert trained is not None, "the last link is trained"
    return replace(trained, seconds=seconds)


def _train_link(plan: ComparisonPlan, link: Link, seed: int, figure: str, on_epoch: OnEpoch | None) -> Trained:
    link.folder.mkdir(parents=True, exist_ok=True)
    return train(link_words(plan, link), seed, link.folder / "running", figure, save=link.checkpoint, on_epoch=on_epoch)


def score_of_teacher(plan: ComparisonPlan, tested: Mapping[str, Any]) -> float | None:
    """Return a teacher's score, of what ``train_teacher`` returned; None if it was not tested."""
    value = tested["figures"].get(plan.metric)
    return None if value is None else float(value) if plan.mode == "max" else -float(value)
