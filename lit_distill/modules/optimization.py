"""The optimizer and the learning-rate scheduler of a module, made from its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lit_distill.modules.factories import OPTIMIZER, SCHEDULER, check_makes, made_by
from lit_distill.modules.scheduler_lengths import made_for_steps, planned_steps, refuse_too_short
from lit_distill.utils.arguments import check_choice, check_text
from lit_distill.utils.notices import warn

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]
Interval = Literal["epoch", "step"]

_DEFAULT_RATE = 1e-3


class Optimization:
    """Makes the optimizer of a module and its scheduler, from the module's options of the same names."""

    def __init__(
        self,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        interval: Interval | None = None,
        monitor: str | None = None,
    ) -> None:
        check_makes("optimizer", optimizer, OPTIMIZER)
        check_makes("lr_scheduler", lr_scheduler, SCHEDULER)
        if interval is not None:
            check_choice("lr_interval", interval, get_args(Interval))
        if monitor is not None:
            check_text("lr_monitor", monitor, "the name of a logged metric, such as 'val/cross_entropy/student'")
        self._make_optimizer, self._make_scheduler = optimizer, lr_scheduler
        self.interval, self._monitor = interval, monitor
        self.learning_rate: float | None = None  # overrides the rate of every parameter group

    @property
    def is_given(self) -> bool:
        """True if the user gave the optimizer."""
        return self._make_optimizer is not None

    def configure(self, parameters: Iterable[nn.Parameter], trainer: Trainer | None) -> Any:
        """Return what Lightning expects of ``configure_optimizers``."""
        optimizer = self.make(parameters)
        if self.learning_rate is not None:
            for group in optimizer.param_groups:
                _set_rate(group, self.learning_rate)
        if self._make_scheduler is None:
            self._refuse_without_schedule()
            return optimizer
        scheduler = made_by("lr_scheduler", self._make_scheduler, optimizer)
        if self.learning_rate is not None:
            _warn_of_own_rates(scheduler, self.learning_rate)
        return self.with_schedule(optimizer, scheduler, trainer)

    def take(self, optimizer: Optimizer, scheduler: Any, trainer: Trainer | None) -> Any:
        """Return what Lightning expects of ``configure_optimizers``, for an optimizer that a config has made."""
        if self.learning_rate is not None:
            rescale(optimizer, [scheduler], self.learning_rate)
        if scheduler is None:
            self._refuse_without_schedule()
            return optimizer
        return self.with_schedule(optimizer, scheduler, trainer)

    def make(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make the optimizer; refuse a factory of something else."""
        if self._make_optimizer is None:
            return torch.optim.AdamW(parameters, lr=_DEFAULT_RATE)
        made: Optimizer = made_by("optimizer", self._make_optimizer, parameters)
        if not hasattr(made, "param_groups"):
            raise TypeError(
                f"what was given as optimizer makes a {type(made).__name__}, not an optimizer; give, for example, "
                f"{OPTIMIZER}."
            )
        return made

    def first_rate(self, parameters: Iterable[nn.Parameter]) -> float:
        """Return the learning rate of the first group at the start of training."""
        chosen = self.learning_rate
        return chosen if chosen is not None else float(self.make(parameters).param_groups[0]["lr"])

    def with_schedule(self, optimizer: Optimizer, scheduler: Any, trainer: Trainer | None) -> dict[str, Any]:
        """Return an optimizer and its scheduler, or Lightning's mapping with one, in the form that Lightning expects."""
        given = dict(scheduler) if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
        inner = given.get("scheduler")
        if not hasattr(inner, "step") or isinstance(inner, Optimizer):
            raise TypeError(
                f"what was given as lr_scheduler makes a {type(scheduler).__name__}, not a scheduler; give, for example, "
                f"{SCHEDULER}."
            )
        if isinstance(inner, ReduceLROnPlateau):
            given["monitor"] = self._watched(given, inner)
        elif self._monitor is not None:
            raise ValueError(
                f"lr_monitor is {self._monitor!r}, and {type(inner).__name__} watches no metric; leave lr_monitor out, or "
                "use ReduceLROnPlateau."
            )
        return {"optimizer": optimizer, "lr_scheduler": {"interval": self._interval_of(inner, trainer), **given}}

    def _watched(self, given: Mapping[str, Any], scheduler: ReduceLROnPlateau) -> str:
        watched = self._monitor or given.get("monitor") or getattr(scheduler, "monitor", None)
        if not watched:
            raise ValueError(
                "ReduceLROnPlateau needs a metric to watch: give the module lr_monitor='val/cross_entropy/student', or "
                "another logged metric, such as 'train/loss'."
            )
        return str(watched)

    def _interval_of(self, scheduler: Any, trainer: Trainer | None) -> Interval:
        if self.interval is not None:
            return self.interval
        planned = planned_steps(scheduler)
        epochs = (trainer.max_epochs or -1) if trainer is not None else 0
        return "epoch" if planned is None or trainer is None or 0 <= epochs >= planned else "step"

    def _refuse_without_schedule(self) -> None:
        for name, value in {"lr_interval": self.interval, "lr_monitor": self._monitor}.items():
            if value is not None:
                raise ValueError(f"{name} is {value!r}, and there is no lr_scheduler; give one, or leave {name} out.")

    def adopt(self, rate: float | None, trainer: Trainer | None) -> None:
        """Set the learning rate of the running optimizers and of those made later; None is the optimizer's own."""
        self.learning_rate = rate
        if rate is not None and trainer is not None:
            for optimizer in trainer.optimizers:
                rescale(optimizer, [config.scheduler for config in trainer.lr_scheduler_configs], rate)

    def check(self, trainer: Trainer) -> None:
        """Refuse a scheduler that ends before the fit, and warn of one that seems made for steps but steps per epoch."""
        steps = trainer.estimated_stepping_batches
        if trainer.fast_dev_run or steps in (-1, float("inf")) or not steps:  # type: ignore[attr-defined]
            return
        batches = max(1, int(trainer.num_training_batches) // max(1, trainer.accumulate_grad_batches))
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else -(-int(steps) // batches)
        for config in trainer.lr_scheduler_configs:
            if self.interval is None and planned_steps(config.scheduler) is not None:
                config.interval = self._choose(config.scheduler, int(steps), epochs)
            if config.interval == "step":
                refuse_too_short(config.scheduler, int(steps), epochs)
            elif self.interval is None and not config.reduce_on_plateau and config.frequency == 1:
                _warn_of_steps(made_for_steps(config.scheduler, int(steps), epochs), epochs)

    def _choose(self, scheduler: Any, steps: int, epochs: int) -> Interval:
        """Choose when a scheduler with its own rates steps, from the length of the fit, and report it."""
        planned = planned_steps(scheduler) or 0
        if planned <= epochs or (planned < steps and planned * planned < steps * epochs):  # nearer to the epochs
            return "epoch"
        rank_zero_info(
            f"{type(scheduler).__name__} plans {planned} steps, and the fit has {epochs} epochs of {steps} optimizer steps: "
            "it steps with the optimizer, not once per epoch. Set lr_interval to change that."
        )
        return "step"


def _warn_of_steps(reason: str | None, epochs: int) -> None:
    if reason is not None:
        warn(
            f"the learning-rate scheduler steps once per epoch, {epochs} times in this fit, and {reason}: it looks made for "
            "optimizer steps. Give the module lr_interval='step', or lr_interval='epoch' if it is right as it is."
        )


def rescale(optimizer: Optimizer, schedulers: Iterable[Any], rate: float) -> None:
    """Set an optimizer's learning rate, and restart its schedulers from it."""
    for group in optimizer.param_groups:
        before = float(group.get("initial_lr", rate))
        now = float(group["lr"])
        # Keep the progress of the schedule; a rate that was already set is at its start.
        _set_rate(group, rate * now / before if "initial_lr" in group and before > 0 and now != rate else rate)
        if "initial_lr" in group:
            group["initial_lr"] = rate
    for scheduler in schedulers:
        if getattr(scheduler, "optimizer", None) is not optimizer:
            continue
        if not _warn_of_own_rates(scheduler, rate) and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [rate] * len(scheduler.base_lrs)


def _warn_of_own_rates(scheduler: Any, rate: float) -> bool:
    """Warn that a rate has no effect on a scheduler with its own rates; return True if it has them."""
    own = planned_steps(scheduler) is not None
    if own:
        warn(
            f"the learning rate {rate:g} that was set has no effect on the scheduler {type(scheduler).__name__}, which has "
            "rates of its own; set its max_lr."
        )
    return own


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
