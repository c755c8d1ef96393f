"""The variants of the reference job, but for the peer's: loops written by hand, and this library's Trainer."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_distill import FrozenTeacher, LogitDistillation, RecordedTeacher
from lit_distill.engine.acceleration import tune_malloc
from measure.job import HARD, SOFT, TEMPERATURE, Job
from measure.rounds import Turns


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_hand(job: Job, turns: Turns, with_teacher: bool = True) -> None:
    """The baseline: a minimal eager float32 loop."""
    torch.manual_seed(0)
    place = device()
    student = job.student().to(place)
    teacher = job.teacher().to(place).requires_grad_(False)
    optimizer = job.optimizer(student.parameters())
    loader = job.loader()
    while True:
        turns.wait()
        for index, (images, labels) in enumerate(loader):
            images, labels = images.to(place), labels.to(place)  # noqa: PLW2901
            logits = student(images)
            loss = F.cross_entropy(logits, labels)
            if with_teacher:
                with torch.no_grad():
                    target = teacher(images)
                loss = HARD * loss + SOFT * soft_loss(logits, target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            turns.step_done(index)


def soft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The soft target as one writes it by hand: ``[N, C]`` logits of both."""
    log_student = F.log_softmax(student / TEMPERATURE, dim=1)
    target = F.softmax(teacher / TEMPERATURE, dim=1)
    return F.kl_div(log_student, target, reduction="batchmean") * TEMPERATURE**2


def on_ready_batches(
    job: Job, turns: Turns, channels_last: bool = False, compiled: bool = False, malloc: bool = False
) -> None:
    """The student alone on batches that lie ready: what each option does for it, with nothing else in the way."""
    if malloc:
        tune_malloc()
    torch.manual_seed(0)
    place = device()
    student = job.student().to(place)
    batches = [torch.rand(job.batch_size, 3, 32, 32, device=place) for _ in range(4)]
    labels = torch.randint(0, 10, (job.batch_size,), device=place)
    if channels_last:
        student = student.to(memory_format=torch.channels_last)
        batches = [batch.to(memory_format=torch.channels_last) for batch in batches]
    if compiled:
        student.compile()
    optimizer = job.optimizer(student.parameters())
    while True:
        turns.wait()
        for index in range(job.lead_in + job.steps + job.tail):
            loss = F.cross_entropy(student(batches[index % len(batches)]), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            turns.step_done(index)


class Taking(Callback):
    """Trains when it is this variant's turn.

    Args:
        turns: Of this child.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._started: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._started is not None:  # what the module did before its first epoch: a recording, if any
            self._turns.notes["seconds_before_first_epoch"] = time.perf_counter() - self._started
            self._started = None
        self._turns.wait()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._turns.step_done(batch_idx)


def make_trainer(job: Job, name: str, callbacks: list[Callback]) -> Trainer:
    """A trainer with its logger and progress bar on; it does not validate and writes no checkpoint."""
    return Trainer(
        max_epochs=10**6,
        accelerator="auto",
        devices=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        logger=TensorBoardLogger(job.out, name="tensorboard", version=name),
        default_root_dir=job.out,
        callbacks=callbacks,
    )


def by_trainer(
    job: Job,
    turns: Turns,
    name: str,
    fast: bool = False,
    in_memory: bool = False,
    recorded: bool = False,
) -> None:
    """This library: ``LogitDistillation`` through Lightning's Trainer."""
    torch.manual_seed(0)
    module = LogitDistillation(
        job.student(),
        RecordedTeacher(job.teacher(), views=job.views) if recorded else FrozenTeacher(job.teacher()),
        temperature=TEMPERATURE,
        standardize=False,
        optimizer=job.optimizer,
        fast=fast,
    )
    make_trainer(job, name, [Taking(turns)]).fit(module, job.module(in_memory))
