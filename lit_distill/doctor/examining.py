"""Runs a trial fit, and every check."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lit_distill.criteria import Criterion
from lit_distill.doctor.checks import CRITERION_CHECKS, TRAINING_CHECKS
from lit_distill.doctor.findings import Finding
from lit_distill.doctor.observations import Observations, TrialFit
from lit_distill.doctor.observer import Observer
from lit_distill.doctor.reporting import Report
from lit_distill.doctor.setup import Setup, setup_of, working_copy
from lit_distill.doctor.subject import Subject, subject
from lit_distill.doctor.trainer import MOST_STEPS, callbacks_in, quiet_trainer, silence
from lit_distill.utils.lightning_names import is_a, trainer_class
from lit_distill.utils.notices import DistillationWarning

_PATIENCE = 5.0  # seconds for one criterion, after which no further check of it is begun


def examine(
    module: LightningModule,
    data: LightningDataModule | Any,
    trainer_options: Mapping[str, Any] | None = None,
    steps: int = MOST_STEPS,
) -> list[Finding]:
    """Run a copy of a distillation for a few steps, and look for mistakes in it.

    The fit runs on one device, in one process, without accumulation, loggers and checkpoints. The module and the ``Distill``
    callback stay as they are. A frozen teacher is not copied; its parameters, buffers and modes are put back.

    Args:
        module: A ``DistillationModule`` before its fit, or a LightningModule of your own with ``Distill``.
        data: A LightningDataModule, or a training DataLoader.
        trainer_options: The arguments of the fit's Trainer, such as ``precision``, ``gradient_clip_val`` and ``callbacks``,
            with ``Distill`` among these.
        steps: Training batches to run, 1 to 20; fewer if they take more than 5 seconds.

    Returns:
        What was found; empty if all is well.

    Raises:
        TypeError: The module is no ``DistillationModule``, and no ``Distill`` is among the callbacks.
        ValueError: ``steps`` is out of range, or the module cannot be copied.

    Example:
        >>> import torch
        >>> from lit_distill import LogitDistillation
        >>> from lit_distill.models import SmallCNN
        >>> _ = torch.manual_seed(0)
        >>> module = LogitDistillation(student=SmallCNN(4), teacher=SmallCNN(8))
        >>> data = torch.utils.data.DataLoader([(torch.rand(1, 8, 8), label) for label in range(8)], batch_size=8)
        >>> [finding.check for finding in examine(module, data, {"accelerator": "cpu"}, steps=1)]
        []
    """
    return list(report(module, data, trainer_options, steps).findings)


def report(
    module: LightningModule,
    data: LightningDataModule | Any,
    trainer_options: Mapping[str, Any] | None = None,
    steps: int = MOST_STEPS,
) -> Report:
    """Examine a distillation like ``examine``, and return what was checked as well as what was found.

    Args:
        module: As for ``examine``.
        data: As for ``examine``.
        trainer_options: As for ``examine``.
        steps: Training batches to run, 1 to 20.

    Raises:
        TypeError: The module is no ``DistillationModule``, and no ``Distill`` is among the callbacks.
        ValueError: ``steps`` is out of range, or the module cannot be copied.
    """
    options = trainer_options or {}
    callbacks = callbacks_in(options)
    setup = setup_of(module, callbacks)
    with working_copy(setup) as twin:
        own = [twin.holder if callback is setup.holder else callback for callback in callbacks]
        trainer = quiet_trainer({**options, "callbacks": own}, steps, trainer_class(twin.module))
        return diagnose(twin, data, trainer, options.get("precision"), options.get("max_epochs"))


def diagnose(
    setup: Setup,
    data: LightningDataModule | Any,
    trainer: Trainer,
    precision: str | None = None,
    epochs: int | None = None,
) -> Report:
    """Examine a distillation, which is used up, in a trainer from ``quiet_trainer``.

    Precision and epochs are those of the real fit: the trainer takes another precision if the device lacks it.
    """
    started = time.perf_counter()
    precision = str(precision or trainer.precision)
    fresh = {name: copy.deepcopy(criterion) for name, criterion in setup.formulas().items()}
    observer = Observer(setup)  # watches from here on, in case the fit never starts
    trainer.callbacks.append(observer)  # type: ignore[attr-defined]
    with silence() as caught:
        error = _fit(setup.module, data, trainer)
        observer.finish()
        seen = observer.seen
        messages = [str(one.message) for one in caught if issubclass(one.category, DistillationWarning)]
        trial = TrialFit(setup, seen, trainer, precision, epochs, error, list(dict.fromkeys(messages)))
        found = {name: result for name, check in TRAINING_CHECKS.items() if (result := check(trial)) is not None}
        notes = [
            f"criterion {name!r} has the weight 0 throughout: it is logged if it can be computed, and trains nothing."
            for name in setup.criteria.criteria()
            if not setup.criteria.trains(name)
        ]
        for name, criterion in fresh.items():
            for check, findings in _examine_alone(name, criterion, seen, precision, notes).items():
                found[check] = found.get(check, []) + findings
    findings = [finding for of_check in found.values() for finding in of_check]
    return Report(findings, frozenset(found), seen.steps, time.perf_counter() - started, notes)


def _examine_alone(
    name: str, fresh: Criterion, seen: Observations, precision: str, notes: list[str]
) -> dict[str, list[Finding]]:
    if seen.sample is None:
        return {}
    try:
        examined = subject(name, seen.built[name], fresh, seen.sample, precision)
    except ValueError as reason:
        notes.append(f"criterion {name!r} could not be examined by itself: {reason}")
        return {}
    return examine_criterion(examined, notes)


def examine_criterion(examined: Subject, notes: list[str]) -> dict[str, list[Finding]]:
    """Return the findings of each check of one criterion that applies."""
    found: dict[str, list[Finding]] = {}
    started = time.perf_counter()
    for number, (name, check) in enumerate(CRITERION_CHECKS.items()):
        if time.perf_counter() - started > _PATIENCE:
            left = list(CRITERION_CHECKS)[number:]
            notes.append(f"{examined.where} is slow, and was not checked for {', '.join(left)}.")
            break
        try:
            result = check(examined)
        except Exception as error:  # a criterion may refuse outputs that training never gives it
            notes.append(f"{examined.where} was not checked for {name}: {type(error).__name__}: {error}")
            continue
        if result is not None:
            found[name] = result
    return found


def _fit(module: LightningModule, data: LightningDataModule | Any, trainer: Trainer) -> Exception | None:
    """Train, and return the exception that ended it early."""
    try:
        with torch.compiler.set_stance("force_eager"):  # compiling would take longer than all the rest
            if is_a(data, "LightningDataModule"):
                trainer.fit(module, datamodule=data)
            else:
                trainer.fit(module, train_dataloaders=data)
    except Exception as error:  # whatever the user's code raises is reported
        return error
    return None
