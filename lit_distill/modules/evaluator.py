"""Validation and test: the student and the teacher on the same batches."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_distill.batch import Batch
from lit_distill.criteria.base import Task
from lit_distill.metrics import Evaluation, TeacherMemory, count_classes
from lit_distill.teachers import Teacher

Place = tuple[str, int, int]


class Evaluator:
    """Gathers both networks' figures over an epoch; a frozen teacher runs once per unchanged batch.

    Args:
        task: What the logits mean.
        teacher: The teacher, or None.
    """

    def __init__(self, task: Task, teacher: Teacher | None) -> None:
        self.task: Task = task
        self.teacher = teacher
        self._memory = TeacherMemory()
        self._running: dict[int, Evaluation] = {}
        self._warned = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluator:
        # A copy of the module needs no copy of what was remembered.
        return Evaluator(self.task, copy.deepcopy(self.teacher, memo))

    def update(self, place: Place, student: Tensor, data: Batch) -> None:
        """Add a batch.

        Args:
            place: Stage, index of the DataLoader, index of the batch.
            student: The student's logits.
            data: The batch.
        """
        evaluation = self._running.get(place[1])
        if evaluation is None:
            evaluation = self._running[place[1]] = Evaluation(self.task, count_classes(student), student.device)
        teacher = self._teacher_logits(place, data)
        if teacher is not None and teacher.shape != student.shape:
            teacher = None  # matched by features alone, its classes are others: there is nothing to compare
        evaluation.update(student, teacher, data.target, data.mask)

    def _teacher_logits(self, place: Place, data: Batch) -> Tensor | None:
        if self.teacher is None:
            return None
        if not self.teacher.frozen:
            return self.teacher.predict(data.inputs, data.mask).logits
        logits = self._memory.recall(place, data.inputs)
        if logits is None:
            logits = self.teacher.predict(data.inputs, data.mask).logits
            self._memory.keep(place, data.inputs, logits)
        return logits

    def finish(self, stage: str, sanity: bool = False) -> dict[str, Tensor]:
        """The epoch's figures by the names that they are logged under; starts the next epoch afresh.

        Args:
            stage: ``val`` or ``test``.
            sanity: The figures are of a sanity check, and warn of nothing.
        """
        running, self._running = self._running, {}
        several = len(running) > 1
        figures: dict[str, Tensor] = {}
        for index, evaluation in sorted(running.items()):
            suffix = f"/loader_{index}" if several else ""
            found = evaluation.compute()
            if not sanity:
                self._warn_of_chance(found, evaluation.classes)
            figures |= {f"{stage}/{name}{suffix}": value for name, value in found.items()}
        return figures

    def _warn_of_chance(self, figures: dict[str, Tensor], classes: int) -> None:
        accuracy = figures.get("accuracy/teacher")
        if self._warned or accuracy is None or self.teacher is None or not self.teacher.frozen:
            return
        self._warned = True
        chance = 1 / max(2, classes) if self.task == "multiclass" else 0.5
        if float(accuracy) < 1.5 * chance and self.task == "multiclass":
            rank_zero_warn(
                f"the teacher's accuracy is {float(accuracy):.1%}, near the {chance:.1%} of chance: was it trained, were "
                "its weights loaded, and does it get the input size and normalisation that it was trained with?"
            )
