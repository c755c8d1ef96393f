"""The length of a fit, and warnings of schedules that it does not reach."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning.pytorch import Trainer

from lit_distill.schedules import Schedule
from lit_distill.utils.notices import warn

_SHARE = 0.5  # of a schedule's span: a fit that is a little shorter is most likely meant


def warn_of_late_schedules(trainer: Trainer, schedules: Mapping[str, Schedule]) -> None:
    """Warn of schedules that start after the end of the fit, or are less than half done by then."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for key, schedule in schedules.items():
        span = schedule.span()
        if span is None:
            continue
        unit, begin, until = span
        end = fit_length(trainer, unit)
        if begin >= end:
            what, result = f"starts at {unit} {begin:g}", "changes nothing"
        elif math.isfinite(until) and end - begin < _SHARE * (until - begin):
            what, result = f"is done at {unit} {until:g}", "stops on the way"
        else:
            continue
        warn(
            f"the schedule of {key!r} ({schedule}) {what}, and the fit ends at {unit} {end:g}: it {result}. Give it earlier "
            "moments, or a longer fit."
        )


def fit_length(trainer: Trainer, unit: str = "epoch") -> float:
    """Return the end of the fit, in epochs or optimizer steps (``unit``); infinity if it is unknown."""
    batches = float(trainer.num_training_batches)
    per_step = max(1, trainer.accumulate_grad_batches)
    known = math.isfinite(batches) and batches > 0
    epochs = float(trainer.max_epochs) if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    steps = float(trainer.max_steps) if trainer.max_steps >= 0 else math.inf
    if unit == "step":
        return min(steps, epochs * math.ceil(batches / per_step)) if known else steps
    return min(epochs, steps / math.ceil(batches / per_step)) if known else epochs
