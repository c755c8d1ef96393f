"""Validation and test: the metrics of student and teacher on the same batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lit_distill.batch.batch import Batch, Target
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.batch.untouched import Guard
from lit_distill.capture.formats import weights_mark
from lit_distill.engine.metrics import Evaluation, count_classes
from lit_distill.engine.own_metrics import OwnMetrics, named_metrics
from lit_distill.engine.teacher_cache import TeacherCache
from lit_distill.outputs import UnreadLogits
from lit_distill.teachers import Teacher
from lit_distill.teachers.base import check_outputs
from lit_distill.utils.distributed import distributed
from lit_distill.utils.notices import warn

Place = tuple[str, int, int]
_STAGES = {"val": "validation", "test": "test"}
_ONLY = ""  # stands for the head of a network that has one


class Evaluator:
    """Computes both networks' metrics over an epoch; a frozen teacher runs once per unchanged batch.

    Args:
        task: What the logits mean; for a student with several heads, by task.
        teacher: The teacher, or None.
        teacher_heads: The teacher's layer for each task that it has a head for; used if ``task`` is a mapping.
        metrics: The user's own torchmetrics, by name or in a collection.
        setting: The argument that sets the task, for messages.
        strict: Refuse labels that the task does not have, in one process; else warn once, and report no metrics.
    """

    def __init__(
        self,
        task: Task | Mapping[str, Task],
        teacher: Teacher | None,
        teacher_heads: Mapping[str, str] | None = None,
        metrics: Mapping[str, Metric] | MetricCollection | None = None,
        setting: str = "the module's task",
        strict: bool = False,
    ) -> None:
        self.setting = setting
        self.strict = strict
        self.tasks: dict[str, Task] = {_ONLY: task} if isinstance(task, str) else dict(task)
        self.teacher = teacher
        self.teacher_heads = dict(teacher_heads or {})
        self.metrics = named_metrics(metrics, self.tasks)
        self._cache = TeacherCache()
        self._running: dict[tuple[int, str], tuple[Evaluation, OwnMetrics]] = {}
        self._warned: set[str] = set()
        self._guard = Guard()
        self._reported: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluator:
        # A copy of the module needs no copy of the cache.
        task = self.tasks.get(_ONLY, self.tasks)
        return Evaluator(
            task, copy.deepcopy(self.teacher, memo), self.teacher_heads, self.metrics, self.setting, self.strict
        )

    def update(
        self,
        place: Place,
        student: Tensor | Mapping[str, Tensor],
        data: Batch,
        members: Mapping[str, Tensor] | None = None,
        arrange: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            place: Stage, index of the DataLoader, index of the batch.
            student: The student's logits; by task for several heads.
            data: The batch.
            members: Logits of the networks that the student consists of, by the names to log them under.
            arrange: Brings the teacher's logits to the positions and the size of the student's; unchanged if None.
        """
        if self._skips(student, data.target):
            return
        heads = {_ONLY: student} if isinstance(student, Tensor) else student
        teacher = self._teacher_logits(place, data)
        if arrange is not None:
            teacher = {name: arrange(logits) for name, logits in teacher.items()}
        for name, logits in heads.items():
            target, taught = self._labels(data.target, name), teacher.get(name)
            if taught is not None and taught.shape != logits.shape:
                taught = None  # matched by features only, it has other classes: there is nothing to compare
            if (place[1], name) not in self._running:
                self._running[place[1], name] = self._begin(name, logits)
            evaluation, own_metrics = self._running[place[1], name]
            evaluation.update(logits, taught, target, data.mask)
            for member, own in (members or {}).items():
                evaluation.update_member(member, own, target, data.mask)
            self._report_misfit(place, name, evaluation)
            networks = {"student": logits, **({"teacher": taught} if taught is not None else {}), **(members or {})}
            for who, outputs in networks.items():
                own_metrics.update(who, outputs, target, data.mask, fits=evaluation.misfit is None)

    def _report_misfit(self, place: Place, name: str, evaluation: Evaluation) -> None:
        # Not refused with several processes: one that stops would leave the others waiting for it.
        if evaluation.misfit is not None and self.strict and evaluation.wrong_label and not distributed():
            raise ValueError(f"{_STAGES.get(place[0], place[0])}, batch {place[2]}: {evaluation.misfit}")
        if evaluation.misfit is not None:
            self._warn_of_misfit(name, evaluation.misfit)

    def _skips(self, student: object, target: Target | None) -> bool:
        """Return True if a batch has no metrics: none are asked for, or the student's output has no known logits."""
        if _ONLY not in self.tasks:
            return False
        if self.tasks[_ONLY] == "none" and not self.metrics:
            return True
        if isinstance(student, UnreadLogits):
            self._labels(target, _ONLY)  # refuses those of several tasks first
            self._warn_of_misfit(_ONLY, student.reason)
            return True
        return False

    def _begin(self, name: str, logits: Tensor) -> tuple[Evaluation, OwnMetrics]:
        """Make a head's metrics for an epoch of one DataLoader."""
        heads = {head for head in self.tasks if head != _ONLY}
        own = {key: metric for key, metric in self.metrics.items() if key.partition("/")[0] not in heads - {name}}
        own = {key.removeprefix(f"{name}/"): metric for key, metric in own.items()}
        evaluation = Evaluation(self.tasks[name], count_classes(logits), logits.device)
        return evaluation, OwnMetrics(own, self.tasks[name], logits.device)

    def _warn_of_misfit(self, name: str, reason: str) -> None:
        if name in self._reported:
            return
        self._reported.add(name)
        whose = f"of the head {name!r} " if name != _ONLY else ""
        warn(
            f"no metrics {whose}are reported for the task {self.tasks[name]!r}, which a batch does not fit: {reason} Set "
            f"{self.setting} to what the outputs are: 'regression' (numbers), 'embedding' (vectors), or 'none' (only "
            "your own metrics=…)."
        )

    def _labels(self, target: Target | None, name: str) -> Tensor | None:
        """Return a head's labels; None if the batch has none for its task."""
        if target is None:
            return None
        if not isinstance(target, (Tensor, Mapping)):
            text = isinstance(target, str) or isinstance(next(iter(target), None), str)
            what = "text" if text else f"a {type(target).__name__}"
            raise ValueError(
                f"the labels of a batch for evaluation are {what}, and a tensor was expected: number the classes in the data "
                "set, 0, 1, …."
            )
        if isinstance(target, Tensor):
            if name == _ONLY:
                return target
            raise ValueError(
                f"the batch has one task's labels, and the heads are of {', '.join(map(repr, self.tasks))}."
            )
        if name == _ONLY:
            raise ValueError(
                f"the batch has labels of several tasks ({', '.join(map(repr, target))}); use MultiTaskDistillation."
            )
        return target.get(name)

    def _teacher_logits(self, place: Place, data: Batch) -> dict[str, Tensor]:
        """Return the teacher's logits for each task that it has a head for."""
        compared = [_ONLY] if _ONLY in self.tasks else list(self.teacher_heads)
        if not self.metrics:  # the task 'none' has no metrics but the user's
            compared = [name for name in compared if self.tasks[name] != "none"]
        if self.teacher is None or not compared:
            return {}
        if not self.teacher.frozen:
            return self._ask(self.teacher, data)
        stage, loader, batch = place
        inputs = data.for_teacher
        places = {name: (f"{stage}/{name}", loader, batch) for name in compared}
        weights = weights_mark(self.teacher.model)
        known = {name: self._cache.recall(where, inputs, weights) for name, where in places.items()}
        found = {name: logits for name, logits in known.items() if logits is not None}
        if len(found) < len(places):
            found = self._ask(self.teacher, data)
            for name, logits in found.items():
                self._cache.keep(places[name], inputs, logits, weights)
        return found

    def forget(self) -> None:
        """Start a run: empty the cache, as the teacher may have changed, and drop an epoch that an error left unfinished."""
        self._cache.forget()
        self._running = {}

    def _ask(self, teacher: Teacher, data: Batch) -> dict[str, Tensor]:
        with self._guard.running(f"the teacher {teacher.name}", data, data.inputs):
            outputs = check_outputs(teacher, teacher.predict(data.for_teacher, data.mask), "predict")
        if _ONLY in self.tasks:
            return {_ONLY: outputs.logits} if outputs.has_logits else {}
        return {task: outputs.features[layer] for task, layer in self.teacher_heads.items()}

    def finish(self, stage: str, sanity: bool = False) -> dict[str, Tensor]:
        """Return the epoch's metrics by the names to log them under, and start the next epoch.

        With several tasks, names contain the task, ``val/<task>/accuracy/student``, and ``val/accuracy/student`` is the
        mean over tasks. Lightning's ``sanity`` check gets no warnings.
        """
        running, self._running = self._running, {}
        loaders = sorted({loader for loader, _ in running})
        values: dict[str, Tensor] = {}
        for loader in loaders:
            suffix = f"/loader_{loader}" if len(loaders) > 1 else ""
            heads = {name: metrics for (place, name), metrics in running.items() if place == loader}
            found = {name: evaluation.compute() for name, (evaluation, _) in heads.items()}
            if not sanity:
                for name, of_task in found.items():
                    self._warn_of_chance(name, of_task, heads[name][0].classes)
            if _ONLY not in found:
                classes = {name: of_task for name, of_task in found.items() if self.tasks[name] in CLASS_TASKS}
                found[_ONLY] = mean_accuracies(classes)
            for name, (_, own) in heads.items():
                found[name] = found[name] | own.compute()
            for name, of_task in found.items():
                prefix = f"{stage}/{name}" if name != _ONLY else stage
                values |= {f"{prefix}/{metric}{suffix}": value for metric, value in of_task.items()}
        return values

    def _warn_of_chance(self, name: str, values: Mapping[str, Tensor], classes: int) -> None:
        accuracy = values.get("accuracy/teacher")
        if name in self._warned or accuracy is None or self.teacher is None or not self.teacher.frozen:
            return
        self._warned.add(name)
        chance = 1 / max(2, classes)
        if float(accuracy) < 1.5 * chance and self.tasks[name] == "multiclass":
            where = f" in task {name!r}" if name != _ONLY else ""
            warn(
                f"the teacher's accuracy{where} is {float(accuracy):.1%}, near the {chance:.1%} of chance: was it trained, "
                "were its weights loaded, and does it get the input size and normalisation that it was trained with?"
            )


def mean_accuracies(tasks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean over tasks of each accuracy that every task has."""
    shared = set.intersection(*(set(metrics) for metrics in tasks.values())) if tasks else set()
    names = sorted(name for name in shared if name.startswith("accuracy/"))
    return {name: torch.stack([metrics[name] for metrics in tasks.values()]).mean() for name in names}
