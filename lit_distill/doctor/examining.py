"""Runs a set-up for a few steps, and examines it."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lit_distill.criteria import Criterion
from lit_distill.doctor.checks import effort, formula, invariance, numerics, parameters, teacher
from lit_distill.doctor.checks.student import student_findings
from lit_distill.doctor.findings import Finding, Report
from lit_distill.doctor.observer import Observer
from lit_distill.doctor.record import Record
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.setup import Setup, copied, setup_of
from lit_distill.doctor.subject import Subject, subject
from lit_distill.modules import DistillationModule
from lit_distill.modules.horizons import made_for_steps
from lit_distill.utils.lightning_names import is_a, trainer_class
from lit_distill.utils.notices import DistillationWarning

MOST_STEPS = 20
_PATIENCE = 5.0  # seconds for one criterion's formula, after which no further check is begun

_FORMULA_CHECKS = (
    formula.scalar,
    formula.gradient,
    formula.sign,
    formula.minimum,
    numerics.finite,
    numerics.hidden_nan,
    invariance.order,
    invariance.batch_size,
    invariance.mask,
    invariance.classes,
    invariance.softmax,
    invariance.length,
    numerics.temperature,
    numerics.jump,
)


def examine(
    module: LightningModule,
    data: LightningDataModule | Any,
    trainer_options: Mapping[str, Any] | None = None,
    steps: int = MOST_STEPS,
) -> list[Finding]:
    """Run a copy of a distillation for a few steps, and look for mistakes; module and ``Distill`` callback stay as they are.

    It runs on one device, in one process, without accumulation, loggers and checkpoints. A frozen teacher is not copied;
    its parameters, buffers and modes are put back.

    Args:
        module: A ``DistillationModule`` before its fit, or a LightningModule of your own with ``Distill``.
        data: A LightningDataModule, or a training DataLoader.
        trainer_options: What the fit's Trainer is made with, such as ``precision``, ``gradient_clip_val`` and ``callbacks``;
            ``Distill`` is found among these.
        steps: Training batches to run, 1 to 20; fewer where they take more than 5 seconds.

    Returns:
        What was found; nothing where all is well.

    Raises:
        TypeError: The module is no ``DistillationModule``, and no ``Distill`` is among the callbacks.
        ValueError: ``steps`` is out of range, or the module cannot be copied.
    """
    return list(report(module, data, trainer_options, steps).findings)


def report(
    module: LightningModule,
    data: LightningDataModule | Any,
    trainer_options: Mapping[str, Any] | None = None,
    steps: int = MOST_STEPS,
) -> Report:
    """As ``examine``, with what was checked."""
    options = trainer_options or {}
    callbacks = _callbacks(options)
    setup = setup_of(module, callbacks)
    with isolate_rng(), copied(setup) as twin:
        own = [twin.holder if callback is setup.holder else callback for callback in callbacks]
        trainer = quiet_trainer({**options, "callbacks": own}, steps, trainer_class(twin.module))
        return diagnose(twin, data, trainer, options.get("precision"), options.get("max_epochs"))


def quiet_trainer(options: Mapping[str, Any], steps: int, kind: type[Trainer] = Trainer) -> Trainer:
    """A Trainer for a few batches on one device that shows and writes nothing.

    Args:
        options: The arguments of the real one.
        steps: Training batches, 1 to 20.
        kind: The Trainer's class, of the package that the module is of.

    Raises:
        ValueError: ``steps`` is out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be 1 to {MOST_STEPS}, not {steps}.")
    ours = {
        "callbacks": [
            one for one in _callbacks(options) if not is_a(one, "callbacks.ProgressBar", "callbacks.ModelSummary")
        ],
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "accumulate_grad_batches": 1,
        "fast_dev_run": steps,
        "overfit_batches": 0.0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "profiler": None,
        "barebones": False,
    }
    with _silence():
        trainer = kind(**{**options, **ours})
    trainer.fit_loop.max_epochs = steps  # of small data, one epoch may be a single batch
    trainer.limit_val_batches = 1  # schedulers and callbacks may wait for a validation figure
    return trainer


def _callbacks(options: Mapping[str, Any]) -> list[Any]:
    given = options.get("callbacks") or []
    return given if isinstance(given, list) else [given]


def diagnose(
    setup: Setup,
    data: LightningDataModule | Any,
    trainer: Trainer,
    precision: str | None = None,
    epochs: int | None = None,
) -> Report:
    """Examine a distillation that may be used up.

    Args:
        setup: The distillation; of a callback, that the trainer has.
        data: A LightningDataModule, or a training DataLoader.
        trainer: From ``quiet_trainer``.
        precision: What was asked of the Trainer, which takes another where the device lacks it.
        epochs: Those of the real fit, which schedules are held against; None where it has no number.
    """
    started = time.perf_counter()
    precision = str(precision or trainer.precision)
    fresh = {name: copy.deepcopy(criterion) for name, criterion in setup.formulas().items()}
    observer = Observer(setup)
    observer.watch()
    trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    with _silence() as said:
        error = _fit(setup.module, data, trainer)
        observer.finish()
        record = observer.record
        found: dict[str, list[Finding]] = {"run": [] if error is None else [_failure(error, record.steps)]}
        said_of_schedules = _schedules(setup, trainer, epochs) if error is None else []
        messages = [str(one.message) for one in said if issubclass(one.category, DistillationWarning)]
        notices = [_notice(message) for message in dict.fromkeys(messages)]
        found["set_up"] = said_of_schedules + notices + student_findings(record)
        found |= _seen(setup, record, precision)
        notes = _untrained(setup)
        for name, criterion in fresh.items():
            if record.sample is not None:
                _merge(found, _formula(name, record.built[name], criterion, record.sample, precision, notes))
        if record.sample is not None and record.student_call is not None:
            found["cost"] = effort.cost_findings(setup, record)
    findings = [finding for of_check in found.values() for finding in of_check]
    return Report(findings, frozenset(found), record.steps, time.perf_counter() - started, notes)


def _seen(setup: Setup, record: Record, precision: str) -> dict[str, list[Finding]]:
    """The checks of what was seen in training."""
    if not record.parameters:  # it never began
        return {}
    found = parameters.parameter_findings(setup, record, precision) | teacher.teacher_findings(setup, record)
    if record.pulls:
        found["balance"] = effort.balance_findings(record)
    return found


def _formula(
    name: str, built: Criterion, fresh: Criterion, sample: Sample, precision: str, notes: list[str]
) -> dict[str, list[Finding]]:
    """The checks of a criterion's formula; a note where it cannot be tried alone."""
    try:
        return examine_criterion(subject(name, built, fresh, sample, precision), notes)
    except ValueError as reason:
        notes.append(f"criterion {name!r} could not be examined alone: {reason}")
        return {}


def examine_criterion(examined: Subject, notes: list[str]) -> dict[str, list[Finding]]:
    """The checks of a criterion's formula that apply, and what they found.

    Args:
        examined: The criterion.
        notes: Takes what could not be checked.
    """
    found = {}
    started = time.perf_counter()
    for check in _FORMULA_CHECKS:
        if time.perf_counter() - started > _PATIENCE:
            left = ", ".join(one.__name__ for one in _FORMULA_CHECKS[_FORMULA_CHECKS.index(check) :])
            notes.append(f"{examined.where} is slow, and was not checked for {left}.")
            break
        try:
            result = check(examined)
        except Exception as error:  # a criterion may refuse outputs that training never gives it
            notes.append(f"{examined.where} was not checked for {check.__name__}: {type(error).__name__}: {error}")
            continue
        if result is not None:
            found[check.__name__] = result
    return found


def _merge(found: dict[str, list[Finding]], more: Mapping[str, list[Finding]]) -> None:
    for check, findings in more.items():
        found[check] = found.get(check, []) + findings


def _fit(module: LightningModule, data: LightningDataModule | Any, trainer: Trainer) -> Exception | None:
    """Train; give back what ended it early."""
    try:
        # What is compiled would take longer than all the rest.
        with torch.compiler.set_stance("force_eager"):
            if is_a(data, "LightningDataModule"):
                trainer.fit(module, datamodule=data)
            else:
                trainer.fit(module, train_dataloaders=data)
    except Exception as error:  # whatever the user's code raises is what the doctor is to tell
        return error
    return None


def _failure(error: Exception, steps: int) -> Finding:
    return Finding(
        "run",
        "bug",
        f"training step {steps + 1}" if steps else "before the end of the first training step",
        f"{type(error).__name__}: {error}",
        "make this run first: what comes after it could not be examined.",
    )


def _schedules(setup: Setup, trainer: Trainer, epochs: int | None) -> list[Finding]:
    """Learning-rate schedules that move once an epoch and look made for steps, in the fit as it will be."""
    loader = trainer.train_dataloader
    batches = len(loader) if isinstance(loader, Sized) else 0
    told = isinstance(setup.module, DistillationModule) and setup.module.optimization.interval_is_told
    if not epochs or epochs < 1 or not batches or told:
        return []
    by_epoch = [config.scheduler for config in trainer.lr_scheduler_configs if config.interval == "epoch"]
    reasons = [made_for_steps(scheduler, epochs * batches, epochs) for scheduler in by_epoch]
    return [
        Finding(
            "set_up",
            "warning",
            "the learning rate's schedule",
            f"it moves once an epoch, {epochs} times, and {reason}: it looks made for optimizer steps.",
            "give lr_interval='step' (interval: step in a module of your own), or 'epoch' where it is right so.",
        )
        for reason in reasons
        if reason is not None
    ]


def _untrained(setup: Setup) -> list[str]:
    """Notes on the criteria that are computed and logged, and train nothing."""
    names = [name for name in setup.criteria.criteria() if not setup.criteria.trains(name)]
    return [
        f"criterion {name!r} has the weight 0 throughout: it is logged where it can be, and trains nothing."
        for name in names
    ]


def _notice(message: str) -> Finding:
    """What the library itself warned of, before or while it trained."""
    what, _, remedy = message.partition(". ")
    return Finding("set_up", "warning", "the set-up", what, remedy or "look whether that is meant.")


@contextmanager
def _silence() -> Iterator[list[warnings.WarningMessage]]:
    """Keep what training prints and warns of out of the report.

    Yields:
        The library's own warnings, as they come.
    """
    loggers = [
        logging.getLogger(name)
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DistillationWarning)
            yield said
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
