"""What a report says of each network, and of the student beside the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lit_distill.batch.labels import Task
from lit_distill.measures import Latency
from lit_distill.reporting.costs import RunCost
from lit_distill.reporting.disagreements import ClassDisagreement, Example
from lit_distill.reporting.judging import Bin
from lit_distill.reporting.scores import Gap
from lit_distill.reporting.sides import CONTROL, STUDENT, TEACHER, Role


@dataclass(frozen=True)
class NetworkFigures:
    """A network of a report.

    Attributes:
        role: ``student``, ``no teacher`` or ``teacher``.
        name: Its class.
        run: What running it costs; None for a teacher that has no network of its own.
        metrics: By name; empty for a teacher whose outputs are of another form than the student's.
        bins: Of its reliability diagram, by rising confidence; empty where the outputs are no classes.
    """

    role: Role
    name: str
    run: RunCost | None
    metrics: Mapping[str, float]
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class Speedup:
    """How much faster the student is than the teacher.

    Attributes:
        student: Its time.
        teacher: Its time with the same batch, threads and device.
    """

    student: Latency
    teacher: Latency

    @property
    def factor(self) -> float:
        """The teacher's median time divided by the student's."""
        return self.teacher.median_ms / self.student.median_ms


@dataclass(frozen=True)
class StudentReport:
    """A student beside its teacher, and beside the same student trained without one; printed, it is the table.

    Attributes:
        title: Of the report.
        task: What the outputs are.
        samples: Of the test data.
        networks: Student, control and teacher.
        gaps: The student's score minus the teacher's and the control's, where all have one.
        classes: Their names, if known.
        notes: What must be known to read the figures.
        by_class: Where student and teacher differ, by class; empty where a sample has no single answer.
        examples: Images on which they differ.
    """

    title: str
    task: Task
    samples: int
    networks: tuple[NetworkFigures, ...]
    gaps: tuple[Gap, ...]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    by_class: tuple[ClassDisagreement, ...] = ()
    examples: tuple[Example, ...] = ()

    def of(self, role: Role) -> NetworkFigures:
        """Return the figures of one network."""
        return next(one for one in self.networks if one.role == role)

    @property
    def student(self) -> NetworkFigures:
        """The student's figures."""
        return self.of(STUDENT)

    @property
    def control(self) -> NetworkFigures:
        """The figures of the student that was trained without a teacher."""
        return self.of(CONTROL)

    @property
    def teacher(self) -> NetworkFigures:
        """The teacher's figures."""
        return self.of(TEACHER)

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def gap(self, against: Role) -> Gap | None:
        """Return the student's score minus that of the teacher or the control; None if one has no score."""
        return next((one for one in self.gaps if one.against == against), None)

    def speedups(self) -> tuple[Speedup, ...]:
        """Return how much faster the student is than the teacher, by batch and threads; empty if the teacher was not timed."""
        student, teacher = self.student.run, self.teacher.run
        if student is None or teacher is None:
            return ()
        return tuple(Speedup(*pair) for pair in zip(student.latencies, teacher.latencies, strict=True))

    def __str__(self) -> str:
        from lit_distill.reporting.tables import text_of

        return text_of(self)

    def markdown(self) -> str:
        """Return the report as Markdown."""
        from lit_distill.reporting.tables import markdown_of

        return markdown_of(self)

    def plain(self) -> dict[str, Any]:
        """Return everything in the report as plain types, but for images; with speed-ups and intervals, for JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, examples=()))))
        del found["examples"]
        for entry, one in zip(found["gaps"], self.gaps, strict=True):
            interval = one.interval()
            entry["interval"] = None if interval is None else list(interval)
        found["speedups"] = [
            {"batch": one.student.batch, "threads": one.student.threads, "factor": one.factor}
            for one in self.speedups()
        ]
        return found
