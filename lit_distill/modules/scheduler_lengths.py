"""The number of steps that a learning-rate scheduler plans, to tell schedulers for steps from schedulers for epochs."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import lr_scheduler

from lit_distill.utils.notices import warn

_FAR = 3
_POINTS = 8
_PLANS = ("T_max", "T_0", "step_size", "total_iters")
_PLANNED_STEPS = ("num_training_steps", "num_warmup_steps")  # arguments of Hugging Face's schedulers


def planned_steps(scheduler: Any) -> int | None:
    """Return the steps that a scheduler with its own rates plans (OneCycleLR, CyclicLR); None for other schedulers."""
    planned = getattr(scheduler, "total_steps", None)
    if planned is None and isinstance(scheduler, lr_scheduler.CyclicLR):
        planned = scheduler.total_size
    return int(planned) if isinstance(planned, (int, float)) else None


def made_for_steps(scheduler: Any, steps: int, epochs: int) -> str | None:
    """Return the reason why a scheduler that steps per epoch looks made for optimizer steps, or None."""
    for part in _parts(scheduler):
        for name, planned in _plans(part):
            near = planned > epochs and abs(planned - steps) <= 0.1 * steps
            # A plan far beyond the steps is of a longer fit, cut short.
            if _FAR * max(1, epochs) <= planned <= _FAR * steps or near:
                return f"{type(part).__name__} plans {planned} ({name})"
        for function in _functions(part):
            if _moves_by_step(function, steps, epochs):
                return f"the function of {type(part).__name__} hardly changes over {epochs} epochs"
    return None


def refuse_too_short(scheduler: Any, steps: int, epochs: int) -> None:
    """Refuse a scheduler that steps per optimizer step and ends before the fit; warn of one that starts again."""
    if isinstance(scheduler, lr_scheduler.OneCycleLR) and scheduler.total_steps < steps:
        raise ValueError(
            f"the schedule OneCycleLR ends after {scheduler.total_steps} steps, and the fit takes {steps}, in {epochs} "
            f"epochs: give total_steps={steps}; or total_steps={epochs} and lr_interval='epoch'."
        )
    for part in _parts(scheduler):
        if isinstance(part, lr_scheduler.CosineAnnealingLR) and part.T_max * _FAR <= steps:
            warn(
                f"the scheduler CosineAnnealingLR steps with the optimizer, and its T_max is {part.T_max} in a fit of {steps} "
                f"steps: the learning rate falls and rises again many times. Give T_max={steps}, or lr_interval='epoch' if "
                "T_max counts epochs."
            )


def _parts(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler and the schedulers inside it."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _parts(inner)


def _plans(scheduler: Any) -> Iterator[tuple[str, int]]:
    planned = planned_steps(scheduler)
    if planned is not None:
        yield "total_steps", planned
    for name in _PLANS:
        value = getattr(scheduler, name, None)
        if isinstance(value, (int, float)):
            yield name, int(value)
    for name in ("milestones", "_milestones"):
        values = list(getattr(scheduler, name, ()) or ())
        if values:
            # The first milestone decides: the last one may be planned for a longer fit.
            yield "milestones", int(min(values))
    for function in getattr(scheduler, "lr_lambdas", ()):
        if isinstance(function, functools.partial):
            for name in _PLANNED_STEPS:
                if isinstance(function.keywords.get(name), int):
                    yield name, function.keywords[name]


def _functions(scheduler: Any) -> Iterator[Callable[[int], float]]:
    """Yield the functions of a LambdaLR, without callable objects, whose state a call may change."""
    if isinstance(scheduler, lr_scheduler.LambdaLR):
        for function in scheduler.lr_lambdas:
            if isinstance(function, (types.FunctionType, functools.partial)):
                yield function


def _moves_by_step(function: Callable[[int], float], steps: int, epochs: int) -> bool:
    """Return True if a function of a step's number changes little over the epochs, and much over the steps."""
    if steps < _FAR * epochs:
        return False
    try:
        by_epoch, by_step = (
            [float(function(end * i // _POINTS)) for i in range(_POINTS + 1)] for end in (epochs, steps)
        )
    except Exception:  # a table with one entry per epoch ends there
        return False
    return max(by_epoch) - min(by_epoch) < 0.1 * (max(by_step) - min(by_step))
