"""Interleaved rounds: variants train in turn, one at a time, so that all of them see the same noise.

A round is one epoch. Ratios are taken within a round and their median over rounds is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from measure.job import Job
from measure.process import Child, Failure


class StopTraining(Exception):
    """The parent wants no more rounds."""


@dataclass(frozen=True)
class Message:
    """What a child reports when it stands at the start of an epoch.

    Attributes:
        seconds: Of the timed steps of the epoch before.
        cpu_seconds: Of all threads of the process in that time; loading workers are not counted.
        notes: Further figures, such as the seconds that a recording took.
    """

    seconds: float
    cpu_seconds: float
    notes: dict[str, float]


class Turns:
    """The child's side: waits for its turn before an epoch and times the middle of it.

    Args:
        connection: To the parent.
        job: Says which steps are timed.
    """

    def __init__(self, connection: Connection, job: Job) -> None:
        self._connection, self._job = connection, job
        self._begun = self._cpu_begun = float("nan")
        self._seconds = self._cpu_seconds = float("nan")
        self._first = True
        self.notes: dict[str, float] = {}

    def wait(self) -> None:
        """Stand at the start of an epoch; the first one is the warm-up and begins at once.

        Raises:
            StopTraining: The parent wants no more.
        """
        if self._first:
            self._first = False
            return
        try:
            self._connection.send(Message(self._seconds, self._cpu_seconds, dict(self.notes)))
            self._connection.recv()
        except (EOFError, OSError) as end:  # the parent has closed its side
            raise StopTraining from end

    def step_done(self, index: int) -> None:
        """Say that step ``index`` of the epoch has ended."""
        if index == self._job.lead_in - 1:
            self._begun, self._cpu_begun = now(), time.process_time()
        elif index == self._job.lead_in + self._job.steps - 1:
            self._seconds, self._cpu_seconds = now() - self._begun, time.process_time() - self._cpu_begun


def now() -> float:
    """Seconds, with all that was asked of the device done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Variant:
    """One way to do the job.

    Attributes:
        name: Of the row.
        train: Trains epoch after epoch, calling ``Turns.wait`` and ``Turns.step_done``.
        options: Further arguments of ``train``.
    """

    name: str
    train: Callable[..., None]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """What was measured of one variant.

    Attributes:
        images: Of a round's timed steps.
        seconds: Of each round.
        cpu_seconds: Of each round, as in ``Message``: a check on a machine that is busy with other things.
        prepare_seconds: Until the end of the warm-up epoch.
        notes: What the child noted.
        failure: Its traceback, where it failed.
    """

    images: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    prepare_seconds: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def images_per_second(self) -> float:
        """Median over rounds."""
        return self.images / statistics.median(self.seconds)

    def ratio(self, baseline: Result) -> float:
        """Median over rounds of this variant's images a second, by the baseline's in the same round."""
        return statistics.median(theirs / own for own, theirs in zip(self.seconds, baseline.seconds, strict=True))

    @property
    def cpu_milliseconds(self) -> float:
        """Of an image, median over rounds."""
        return 1000 * statistics.median(self.cpu_seconds) / self.images

    def usable(self) -> bool:
        return self.failure is None and bool(self.seconds)


def train(connection: Connection, variant: Variant, job: Job) -> None:
    """What a child does."""
    try:
        variant.train(job, Turns(connection, job), **variant.options)
    except StopTraining:
        return


def interleave(variants: list[Variant], job: Job) -> dict[str, Result]:
    """Train every variant for ``job.rounds`` rounds, in turn."""
    results = {variant.name: Result(job.batch_size * job.steps) for variant in variants}
    children: dict[str, Child] = {}
    try:
        for variant in variants:
            begun = time.perf_counter()
            children[variant.name] = Child(variant.name, train, (variant, job), job.folder)
            _take(children, variant.name, results[variant.name], warm_up=True)
            results[variant.name].prepare_seconds = time.perf_counter() - begun
        for index in range(job.rounds):
            # Every other round goes backwards, so that nobody always follows the same neighbour.
            names = list(children) if index % 2 == 0 else list(reversed(children))
            for name in names:
                children[name].go()
                _take(children, name, results[name])
    finally:
        for child in children.values():
            child.close()
    return results


def _take(children: dict[str, Child], name: str, result: Result, warm_up: bool = False) -> None:
    answer = children[name].receive()
    if not isinstance(answer, Message):
        result.failure = answer if isinstance(answer, Failure) else Failure("ended early", repr(answer))
        children.pop(name).close()
        return
    result.notes = answer.notes
    if not warm_up:
        result.seconds.append(answer.seconds)
        result.cpu_seconds.append(answer.cpu_seconds)
