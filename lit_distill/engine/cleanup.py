"""Cleanup after a run that ended with an error: the Trainer and the module can be used again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from lit_distill.batch.examples import let_go


class StateBefore:
    """The state before a run that Lightning restores only after a run without an error: modes and the handler of Ctrl-C.

    If validation fails, a Trainer leaves the module in eval mode, and the next fit would train it so. If Ctrl-C ends a fit
    before the Trainer sets its signal handlers, it ignores Ctrl-C from then on, in a notebook too.
    """

    def __init__(self) -> None:
        self._modes: list[tuple[nn.Module, bool]] = []
        self._interrupt: Any = None

    def record(self, module: nn.Module) -> None:
        """Record the state, at the start of a run."""
        self._modes = [(child, child.training) for child in module.modules()]
        self._interrupt = signal.getsignal(signal.SIGINT)

    def restore(self, trainer: Trainer) -> None:
        """Restore the recorded state, after an error."""
        for child, training in self._modes:
            child.training = training
        let_go(trainer)
        for kind in (DataLoader, BatchSampler):
            _restore_methods(kind)
        no_handlers = not getattr(getattr(trainer, "_signal_connector", None), "_original_handlers", True)
        if no_handlers and self._interrupt not in (None, signal.getsignal(signal.SIGINT)):
            signal.signal(signal.SIGINT, self._interrupt)
        self.forget()

    def forget(self) -> None:
        """Drop the recorded state, after a run without an error."""
        self._modes, self._interrupt = [], None


def _restore_methods(kind: type) -> None:
    """Restore the methods of a class and its subclasses that Lightning replaced to make loaders, and kept as that failed."""
    for one in [kind, *_subclasses(kind)]:
        for name in ("__setattr__", "__delattr__", "__init__"):
            before = vars(one).get(f"__old{name}")
            if before is not None:
                setattr(one, name, before)
                delattr(one, f"__old{name}")


def _subclasses(kind: type) -> list[type]:
    children: list[type] = kind.__subclasses__()
    return [below for child in children for below in (child, *_subclasses(child))]


class LastCallback(Callback):
    """Cleans up after an error, as the last of a Trainer's callbacks: ``OnExceptionCheckpoint`` saves before it."""

    def __init__(self, clean_up: Callable[[LightningModule], None]) -> None:
        self._clean_up = clean_up

    def join(self, trainer: Trainer) -> None:
        """Add this callback at the end of the Trainer's list, for one run."""
        self.leave(trainer)
        _callbacks(trainer).append(self)

    def leave(self, trainer: Trainer) -> None:
        """Remove this callback from the Trainer's list."""
        callbacks = _callbacks(trainer)
        if self in callbacks:
            callbacks.remove(self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._clean_up(pl_module)
        self.leave(trainer)


def _callbacks(trainer: Trainer) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
