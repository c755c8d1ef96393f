"""The Trainer of a trial fit: one device, a few batches, nothing shown or written."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

from lit_distill.utils.lightning_names import is_a
from lit_distill.utils.notices import DistillationWarning

MOST_STEPS = 20
_LOGGERS = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


def quiet_trainer(options: Mapping[str, Any], steps: int, kind: type[Trainer] = Trainer) -> Trainer:
    """Return a Trainer for a few batches on one device that shows and writes nothing, with the real one's other options.

    Its class comes from the package that the module comes from.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be 1 to {MOST_STEPS}, not {steps}.")
    ours = {
        "callbacks": [
            one for one in callbacks_in(options) if not is_a(one, "callbacks.ProgressBar", "callbacks.ModelSummary")
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
    with silence():
        trainer = kind(**{**options, **ours})
    trainer.fit_loop.max_epochs = steps  # with little data, one epoch may be a single batch
    trainer.limit_val_batches = 1  # schedulers and callbacks may wait for a validation figure
    return trainer


def callbacks_in(options: Mapping[str, Any]) -> list[Any]:
    """Return the callbacks in a Trainer's arguments."""
    given = options.get("callbacks") or []
    return given if isinstance(given, list) else [given]


@contextmanager
def silence() -> Iterator[list[warnings.WarningMessage]]:
    """Keep what training prints and warns of out of the report; yield the library's own warnings, as they come."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DistillationWarning)
            yield caught
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
