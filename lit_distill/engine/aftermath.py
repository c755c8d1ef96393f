"""What a run that an error ends leaves: the Trainer and the modules as they were, so that they can be used again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from lit_distill.batch.examples import let_go


class Before:
    """What a run found, which Lightning puts back only where the run ends well: train and eval modes, the handler of Ctrl-C.

    A Trainer leaves a module in eval mode where its validation fails, and the next fit would train it so. It ignores Ctrl-C for
    good, in a notebook too, where that ends a fit before the Trainer takes its signal handlers.
    """

    def __init__(self) -> None:
        self._modes: list[tuple[nn.Module, bool]] = []
        self._interrupt: Any = None

    def remember(self, module: nn.Module) -> None:
        """Begin a run of a module."""
        self._modes = [(child, child.training) for child in module.modules()]
        self._interrupt = signal.getsignal(signal.SIGINT)

    def put_back(self, trainer: Trainer) -> None:
        """End it by an error."""
        for child, training in self._modes:
            child.training = training
        let_go(trainer)
        for kind in (DataLoader, BatchSampler):
            _as_defined(kind)
        ours_to_do = not getattr(getattr(trainer, "_signal_connector", None), "_original_handlers", True)
        if ours_to_do and self._interrupt not in (None, signal.getsignal(signal.SIGINT)):
            signal.signal(signal.SIGINT, self._interrupt)
        self.forget()

    def forget(self) -> None:
        """End it well."""
        self._modes, self._interrupt = [], None


def _as_defined(kind: type) -> None:
    """Give a class and its subclasses their methods back.

    Lightning puts others in their place while it asks for loaders, and leaves these where asking fails: for the whole process.
    """
    for one in [kind, *_all_below(kind)]:
        for name in ("__setattr__", "__delattr__", "__init__"):
            before = vars(one).get(f"__old{name}")
            if before is not None:
                setattr(one, name, before)
                delattr(one, f"__old{name}")


def _all_below(kind: type) -> list[type]:
    """Every subclass, and theirs."""
    children: list[type] = kind.__subclasses__()
    return [below for child in children for below in (child, *_all_below(child))]


class Departure(Callback):
    """Stands last in a Trainer's callbacks for one run, to clean up after an error once all others have had their turn.

    ``OnExceptionCheckpoint`` saves there what is then taken away.

    Args:
        leave: What to do.
    """

    def __init__(self, leave: Callable[[LightningModule], None]) -> None:
        self._leave = leave

    def arrive(self, trainer: Trainer) -> None:
        """Join the callbacks."""
        self.depart(trainer)
        _callbacks(trainer).append(self)

    def depart(self, trainer: Trainer) -> None:
        """Leave them."""
        callbacks = _callbacks(trainer)
        if self in callbacks:
            callbacks.remove(self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave(pl_module)
        self.depart(trainer)


def _callbacks(trainer: Trainer) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
