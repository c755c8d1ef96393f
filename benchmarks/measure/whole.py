"""A whole training of 30 epochs, the recording and the compilation included: the time that ``fit`` takes."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch

from lit_distill import LogitDistillation
from measure.job import TEMPERATURE, Job
from measure.loops import make_teacher, make_trainer
from measure.process import Failure, alone
from measure.rounds import Result

ONLINE, RECORDED, RECORDED_FAST = "online", "recorded", "recorded, fast"
_ALL_IMAGES = 50_000


@dataclass(frozen=True)
class Whole:
    """Seconds of a whole training by way of training.

    Attributes:
        images: A training epoch's.
        epochs: Of the training.
        views: Recorded views of each image.
        measured: Wall time of ``fit`` on these images.
        computed: The same for all of CIFAR-10, from the rates of the interleaved rounds; compilation is left out.
        failures: Of trainings that could not be measured.
    """

    images: int
    epochs: int
    views: int
    measured: dict[str, float]
    computed: dict[str, float]
    failures: dict[str, Failure]


def fit_seconds(job: Job, name: str, recorded: bool, fast: bool) -> float:
    """Train once through and return the seconds."""
    if not job.smoke:  # compiled code of the rows before must not be found
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=job.out)
    torch.manual_seed(0)
    teacher = make_teacher(job, recorded, job.whole_views)
    module = LogitDistillation(job.student(), teacher, temperature=TEMPERATURE, optimizer=job.optimizer, fast=fast)
    data = job.module(in_memory=fast, images=job.batch_size * job.whole_steps)
    trainer = make_trainer(job, f"whole-{name}", job.epochs, [])
    begun = time.perf_counter()
    trainer.fit(module, data)
    return time.perf_counter() - begun


def measure_whole(job: Job, rounds: dict[str, Result]) -> Whole:
    ways = {ONLINE: (False, False), RECORDED: (True, False), RECORDED_FAST: (True, True)}
    measured, failures = {}, {}
    for name, (recorded, fast) in ways.items():
        answer: Any = alone(f"whole {name}", fit_seconds, (job, name, recorded, fast), job.folder)
        if isinstance(answer, Failure):
            failures[name] = answer
        else:
            measured[name] = answer
    images = job.batch_size * job.whole_steps
    return Whole(images, job.epochs, job.whole_views, measured, _computed(job, rounds), failures)


def _computed(job: Job, rounds: dict[str, Result]) -> dict[str, float]:
    # Beside each recorded variant stands the one that prepares the same, but records nothing.
    rows = {
        ONLINE: ("lit-distill", "lit-distill"),
        RECORDED: ("lit-distill, recorded", "lit-distill"),
        RECORDED_FAST: ("lit-distill, recorded, fast", "lit-distill, fast"),
    }
    found = {}
    for name, (row, beside) in rows.items():
        result, unrecorded = rounds.get(row), rounds.get(beside)
        if result is None or unrecorded is None or not (result.usable() and unrecorded.usable()):
            continue
        preparing = unrecorded.notes["seconds_before_first_epoch"]
        recording = max(0.0, result.notes["seconds_before_first_epoch"] - preparing) / (job.views * job.images)
        seconds = job.epochs * _ALL_IMAGES / result.images_per_second + preparing
        found[name] = seconds + recording * job.whole_views * _ALL_IMAGES
    return found
