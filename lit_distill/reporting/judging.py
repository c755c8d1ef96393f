"""Asks the three networks for the same test batches, and keeps what each makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_distill.batch.batch import Batch, BatchFormat, move
from lit_distill.batch.labels import CLASS_TASKS, Task, class_indices
from lit_distill.batch.positions import settle, settled_logits
from lit_distill.batch.reading import BatchReader
from lit_distill.engine.metrics import Evaluation, count_classes
from lit_distill.engine.own_metrics import OwnMetrics
from lit_distill.reporting.disagreements import Disagreements
from lit_distill.reporting.scores import SCORES, Gap, SampleScores, gap, sample_scores
from lit_distill.reporting.sides import STUDENT, TEACHER, Role, Side
from lit_distill.utils.tensors import first_parameter


@dataclass(frozen=True)
class Bin:
    """The predictions of a network whose confidence is about the same.

    Attributes:
        count: Of predictions.
        confidence: Their mean, in [0, 1].
        accuracy: The share that is right.
    """

    count: int
    confidence: float
    accuracy: float


class _Answers:
    """What one network put out so far."""

    def __init__(self, task: Task, metrics: Mapping[str, Metric], logits: Tensor) -> None:
        self.task = task
        self.evaluation = Evaluation(task, count_classes(logits), logits.device)
        self.own = OwnMetrics(metrics, task, logits.device)
        self.scores: list[SampleScores] = []

    def add(self, logits: Tensor, teacher: Tensor | None, data: Batch) -> None:
        target = data.target if isinstance(data.target, Tensor) else None
        self.evaluation.update(logits, teacher, target, data.mask)
        if self.evaluation.misfit is not None:
            raise ValueError(f"the test data do not fit the task {self.task!r}: {self.evaluation.misfit}")
        self.own.update(STUDENT, logits, target, data.mask)
        found = sample_scores(self.task, logits, target, teacher, data.mask)
        if found is not None:
            self.scores.append(found)

    def figures(self) -> dict[str, float]:
        found = {**self.evaluation.compute(), **self.own.compute()}
        return {
            name.removesuffix(f"/{STUDENT}"): float(value)
            for name, value in found.items()
            if not name.endswith(f"/{TEACHER}")
        }

    def joined(self) -> SampleScores | None:
        if not self.scores:
            return None
        return SampleScores(torch.cat([one.total for one in self.scores]), torch.cat([o.count for o in self.scores]))

    def bins(self) -> tuple[Bin, ...]:
        kept = self.evaluation.calibration(STUDENT)
        if kept is None:
            return ()
        parts = (kept.counts.tolist(), kept.confidences.tolist(), kept.hits.tolist())
        return tuple(Bin(int(n), sure / n, hit / n) for n, sure, hit in zip(*parts, strict=True) if n)


class Judge:
    """Evaluates networks on the same batches.

    Args:
        sides: Student and control, and the teacher.
        task: What the outputs are.
        format_: How batches are read.
        metrics: The user's own, by name.

    Attributes:
        example: The first batch; None before it.
        samples: Their number so far.
        disagreements: Of student and teacher, where a sample has one answer.
    """

    def __init__(
        self, sides: Sequence[Side], task: Task, format_: BatchFormat, metrics: Mapping[str, Metric] | None = None
    ) -> None:
        self.task, self.format, self.metrics = task, format_, dict(metrics or {})
        self._sides = {side.role: side for side in sides}
        self._student = self._sides[STUDENT]
        teacher = self._sides[TEACHER].network
        numbers, labels = task == "regression", task != "embedding"
        self._reader = BatchReader(format_, self._student.network, teacher, labels, numbers=numbers)
        self._answers: dict[Role, _Answers] = {}
        self.example: Batch | None = None
        self.samples = 0
        self.disagreements = Disagreements()

    def add_all(self, loader: Iterable[Any]) -> None:
        """Add every batch of a loader.

        Raises:
            ValueError: It yields none, or a batch does not fit.
        """
        assert self._student.network is not None
        device = first_parameter(self._student.network).device
        for batch in loader:
            self.add(move(batch, device))
        self.check_data()

    def check_data(self) -> None:
        """Refuse test data without batches, or without labels.

        Raises:
            ValueError: There are none.
        """
        if self.example is None:
            raise ValueError("the loader of the test data is empty: it yields no batch.")
        if self.task not in ("embedding", "none") and not self.scores(STUDENT):
            raise ValueError("the test data have no labels, and without them nothing can be said about accuracy.")

    def add(self, batch: Any) -> None:
        """Add a batch, on the networks' device.

        Raises:
            ValueError: It cannot be read, or does not fit the networks or the task.
        """
        given = self._reader.read(batch)
        raw = {role: side.predict(given) for role, side in self._sides.items()}
        student = raw[STUDENT]
        data, outputs, _ = settle(given, self.format, student, layouts=self._student.layouts)
        if not isinstance(outputs.logits, Tensor):
            raise ValueError(f"the student's output cannot be read: {outputs.logits.reason}")
        if self.example is None:
            self.example = given
        self.samples += given.size
        logits = {role: self._logits(role, one.logits) for role, one in raw.items()}
        arranged = {role: settled_logits(given, self.format, student, one) for role, one in logits.items()}
        taught = arranged.get(TEACHER)
        same = taught is not None and taught.shape == outputs.logits.shape
        for role, one in arranged.items():
            if role == TEACHER and not same:
                continue  # it has other classes: there is nothing to compare
            if role not in self._answers:
                self._answers[role] = _Answers(self.task, self.metrics, one)
            self._answers[role].add(one, taught if same and role != TEACHER else None, data)
        if same and taught is not None:
            self._add_disagreements(outputs.logits, taught, data)

    def _add_disagreements(self, student: Tensor, teacher: Tensor, data: Batch) -> None:
        if self.task == "multiclass" and student.dim() == 2 and isinstance(data.target, Tensor):
            self.disagreements.add(student, teacher, class_indices(data.target, student, check=False), data.inputs)

    def _logits(self, role: Role, logits: Any) -> Tensor:
        if not isinstance(logits, Tensor):
            raise ValueError(f"the output of the {role} cannot be read: {logits.reason}")
        return logits

    def figures(self, role: Role) -> dict[str, float]:
        """Return a network's metrics by name; none for a teacher with other classes."""
        return self._answers[role].figures() if role in self._answers else {}

    def bins(self, role: Role) -> tuple[Bin, ...]:
        """Return the bins of a network's reliability diagram that are not empty, by rising confidence."""
        known = self.task in CLASS_TASKS and role in self._answers
        return self._answers[role].bins() if known else ()

    def scores(self, role: Role) -> SampleScores | None:
        """Return a network's scores sample by sample; None if it has none."""
        return self._answers[role].joined() if role in self._answers else None

    def gap(self, against: Role) -> Gap | None:
        """Return how the student's score differs from another network's; None if one has none."""
        student, other = self.scores(STUDENT), self.scores(against)
        if student is None or other is None:
            return None
        return gap(student, other, against, SCORES[self.task])
