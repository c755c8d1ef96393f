"""What each option does alone: for the teacher's forward pass, and for the student's step."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_distill import FrozenTeacher, TeacherRuntime
from lit_distill.engine.acceleration import runtimes_for
from measure.job import Job
from measure.loops import by_trainer, device, on_ready_batches
from measure.process import Failure, alone
from measure.rounds import Variant, now

PLAIN = "plain"
RUNTIMES = {
    PLAIN: TeacherRuntime(),
    "channels_last": TeacherRuntime(channels_last=True),
    "fold_batch_norm": TeacherRuntime(fold_batch_norm=True),
    "bf16": TeacherRuntime(precision="bf16"),
    "int8": TeacherRuntime(precision="int8"),
    "int8_dynamic": TeacherRuntime(precision="int8_dynamic"),
    "compile": TeacherRuntime(compile=True),
    "batch_size=32": TeacherRuntime(batch_size=32),
    "fold_batch_norm + channels_last": TeacherRuntime(channels_last=True, fold_batch_norm=True),
    "fold_batch_norm + compile": TeacherRuntime(fold_batch_norm=True, compile=True),
}
_BATCHES = 6


@dataclass(frozen=True)
class TeacherFigures:
    """One runtime of the teacher.

    Attributes:
        seconds: Of each round.
        ratio: Median over rounds of its speed, by the plain one's in the same round.
        difference: Mean absolute difference of its logits from the plain ones.
        agreement: Share of images with the same prediction.
        failure: Why it could not be measured.
    """

    seconds: list[float]
    ratio: float = float("nan")
    difference: float = float("nan")
    agreement: float = float("nan")
    failure: Failure | None = None


def student_variants() -> list[Variant]:
    """The student alone on ready batches."""
    return [
        Variant("student, plain", on_ready_batches),
        Variant("student, channels_last", on_ready_batches, {"channels_last": True}),
        Variant("student, compile", on_ready_batches, {"compiled": True}),
        Variant("student, malloc", on_ready_batches, {"malloc": True}),
        Variant("student, all", on_ready_batches, {"channels_last": True, "compiled": True, "malloc": True}),
    ]


def data_variants() -> list[Variant]:
    """The whole online job with one thing changed."""
    return [
        Variant("lit-distill, in memory", by_trainer, {"name": "in-memory", "in_memory": True}),
        Variant("lit-distill, fast, from files", by_trainer, {"name": "fast-files", "fast": True}),
    ]


def _batches(job: Job) -> list[Tensor]:
    torch.manual_seed(0)
    data = job.dataset()
    images = [torch.stack([data[i][0] for i in range(n, n + job.batch_size)]) for n in (0, job.batch_size)]
    return [batch.to(device()) for batch in images]


def time_teachers(job: Job) -> dict[str, TeacherFigures]:
    """Forward passes of every runtime in turn, in one process."""
    batches = _batches(job)
    runners: dict[str, FrozenTeacher] = {}
    failed: dict[str, TeacherFigures] = {}
    chosen = runtimes_for(device())[0]
    for name, runtime in (RUNTIMES | {f"fast: {chosen.describe()}": chosen}).items():
        try:
            runners[name] = _ready_teacher(job, runtime, batches)
        except Exception as error:  # one option that this machine lacks must not hide the others
            failed[name] = TeacherFigures([], failure=Failure(f"{type(error).__name__}: {error}", repr(error)))
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(job.rounds):
        for name, teacher in runners.items():
            begun = now()
            for index in range(1 if job.smoke else _BATCHES):
                teacher(batches[index % len(batches)])
            seconds[name].append(now() - begun)
    reference = runners[PLAIN](batches[0]).logits
    return failed | {
        name: _figures(seconds[name], seconds[PLAIN], teacher(batches[0]).logits, reference)
        for name, teacher in runners.items()
    }


def _ready_teacher(job: Job, runtime: TeacherRuntime, batches: list[Tensor]) -> FrozenTeacher:
    teacher = FrozenTeacher(job.teacher(), runtime)
    teacher.apply(lambda tensor: tensor.to(device()))
    teacher.prepare_runtime(lambda: batches)
    for batch in batches:
        teacher(batch)
    return teacher


def _figures(seconds: list[float], plain: list[float], logits: Tensor, reference: Tensor) -> TeacherFigures:
    return TeacherFigures(
        seconds,
        statistics.median(theirs / own for own, theirs in zip(seconds, plain, strict=True)),
        float((logits - reference).abs().mean()),
        float((logits.argmax(1) == reference.argmax(1)).float().mean()),
    )


def measure_teachers(job: Job) -> dict[str, TeacherFigures] | Failure:
    answer: Any = alone("teacher options", time_teachers, (job,), job.folder)
    found: dict[str, TeacherFigures] | Failure = answer
    return found


def teachers_table_rows(job: Job, found: dict[str, TeacherFigures]) -> list[list[str]]:
    rows = []
    for name, figures in found.items():
        if figures.failure is not None:
            rows.append([name, figures.failure.error, "", "", ""])
            continue
        images = job.batch_size * (1 if job.smoke else _BATCHES)
        rate = images / statistics.median(figures.seconds)
        quality = [f"{figures.difference:.4f}", f"{figures.agreement:.1%}"]
        rows.append([name, f"{rate:.0f}", f"{figures.ratio:.2f}", *quality])
    return rows
