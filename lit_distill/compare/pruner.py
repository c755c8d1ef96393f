"""Optuna's study of one student: its trials are the choices, and a rung's best go on together.

Optuna's own ``SuccessiveHalvingPruner`` decides as trials arrive, so that the first ones train to the end and what is spent
depends on their order. A comparison knows its choices from the start: each rung waits for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from lit_distill.compare.halving import Rung, Standing, comparable
from lit_distill.compare.plan import Choice


class RungPruner(optuna.pruners.BasePruner):
    """Keeps the best of a rung, judged when all its trials have reported.

    Args:
        rungs: Of the study.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._kept = {number: after.choices for number, after in enumerate(rungs[1:])}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return True if the trial is none of the best at its last report."""
        step = trial.last_step
        if step is None:
            return False
        reached = [one for one in study.get_trials(deepcopy=False) if step in one.intermediate_values]
        best = sorted(reached, key=lambda one: (-comparable(one.intermediate_values[step]), one.number))
        return trial.number not in {one.number for one in best[: self._kept.get(step, 1)]}


class Race:
    """One student's choices in Optuna.

    Args:
        student: Its name, which is the study's.
        choices: Of that student, without the control.
        rungs: Of the halving.
        storage: For the study.
    """

    def __init__(self, student: str, choices: Sequence[Choice], rungs: Sequence[Rung], storage: JournalStorage) -> None:
        self.student, self._count, self._reported = student, len(rungs), 0
        self.study = optuna.create_study(
            storage=storage,
            study_name=student,
            direction="maximize",
            pruner=RungPruner(rungs),
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: every choice is given
        )
        self._trials: dict[Choice, Trial] = {}
        self._standings: dict[Choice, Standing] = {}
        for choice in choices:
            self.study.enqueue_trial({"teacher": choice.teacher, "method": choice.method})
            self._trials[choice] = self.study.ask(_space(choices))
        self.left = list(choices)

    def report(self, rung: Rung, scores: Mapping[Choice, float]) -> None:
        """Take the scores of all choices that are left at a rung, and drop those that do not go on.

        Raises:
            RuntimeError: None of them could be trained.
        """
        step = self._reported
        self._reported += 1
        for choice in self.left:
            self._trials[choice].report(scores[choice], step)
            self._standings[choice] = Standing(choice, rung, scores[choice])
        kept = [choice for choice in self.left if not self._trials[choice].should_prune()]
        if all(math.isnan(scores[choice]) for choice in kept):
            raise RuntimeError(f"no choice of student {self.student!r} could be trained.")
        for choice in self.left:
            if choice not in kept:
                self.study.tell(self._trials[choice], state=TrialState.PRUNED)
        self.left = kept
        if self._reported == self._count:
            self.study.tell(self._trials[kept[0]], scores[kept[0]])

    def standings(self) -> list[Standing]:
        """Return how far each choice came, those that are left first, and then the furthest and best."""
        return sorted(
            self._standings.values(),
            key=lambda one: (one.choice not in self.left, one.rung.choices, -comparable(one.score)),
        )


def open_storage(path: Path) -> JournalStorage:
    """Return an empty storage in a file: what it holds is found again from the runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (path, path.with_name(f"{path.name}.lock")):  # a kill leaves Optuna's lock, which would be waited for
        stale.unlink(missing_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(path)))


def _space(choices: Sequence[Choice]) -> dict[str, BaseDistribution]:
    return {
        "teacher": CategoricalDistribution(list(dict.fromkeys(choice.teacher for choice in choices))),
        "method": CategoricalDistribution(list(dict.fromkeys(choice.method for choice in choices))),
    }
