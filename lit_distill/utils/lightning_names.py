"""Recognises Lightning's classes under either of its names.

``lightning.pytorch`` and ``pytorch_lightning`` are one library installed twice: their classes do the same and share no
parent, so that ``isinstance`` with one package's class is False for the other's objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import model_helpers
from torch import nn

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_OTHER = "pytorch_lightning"
_CHECK = "_maybe_unwrap_optimized"


def classes_named(path: str) -> tuple[type, ...]:
    """Return a class of Lightning, such as ``strategies.DDPStrategy``, from each of its packages that is imported."""
    folder, _, name = path.rpartition(".")
    found = []
    for package in _PACKAGES:
        module = sys.modules.get(f"{package}.{folder}" if folder else package)
        if isinstance(getattr(module, name, None), type):
            found.append(getattr(module, name))
    return tuple(found)


def is_a(thing: object, *paths: str) -> bool:
    """Return True if a thing is an instance of one of Lightning's classes, in either package."""
    return any(isinstance(thing, classes_named(path)) for path in paths)


def is_module(thing: object) -> bool:
    """Return True for a LightningModule of either package."""
    return is_a(thing, "LightningModule")


def keeps_parameters_whole(strategy: object) -> bool:
    """Return True if a strategy leaves each parameter in one piece: one device, or DDP."""
    return is_a(strategy, "strategies.SingleDeviceStrategy", "strategies.DDPStrategy")


def is_overridden(hook: str, owner: object) -> bool:
    """Return True if a module, data module or callback of either package overrides a hook."""
    parents = [
        parent
        for path in ("LightningModule", "LightningDataModule", "Callback")
        for parent in classes_named(path)
        if isinstance(owner, parent)
    ]
    return bool(parents) and hasattr(parents[0], hook) and model_helpers.is_overridden(hook, owner, parents[0])


def has_forward(network: nn.Module) -> bool:
    """Return True if a network has a ``forward``, which a LightningModule need not have."""
    if "forward" in vars(network) or getattr(network, "_compiled_call_impl", None) is not None:
        return True
    defaults = [parent.forward for parent in (nn.Module, *classes_named("LightningModule"))]  # type: ignore[attr-defined]
    return getattr(type(network), "forward", None) not in defaults


def trainer_class(module: object) -> Any:
    """Return the Trainer class of the package that a LightningModule comes from."""
    module = getattr(module, "_orig_mod", module)
    package = "lightning.pytorch" if isinstance(module, LightningModule) else _OTHER
    return sys.modules[package].Trainer


def explain_refused_modules() -> None:
    """Make ``pytorch_lightning``'s Trainer, if it is imported, explain why it cannot take ``lightning.pytorch``'s modules.

    Its own error names two classes and no remedy. The check that is replaced is private: in versions without it, Lightning's
    error remains.
    """
    home = sys.modules.get(f"{_OTHER}.trainer.trainer")
    check = getattr(home, _CHECK, None)
    if check is not None and not isinstance(check, _ExplainingCheck):
        setattr(home, _CHECK, _ExplainingCheck(check))


class _ExplainingCheck:
    """A Trainer's check of its module, with an error that helps."""

    def __init__(self, original: Callable[[object], Any]) -> None:
        self.__wrapped__ = original

    def __call__(self, model: object) -> Any:
        if isinstance(model, LightningModule):
            raise TypeError(
                f"{type(model).__name__} is a LightningModule of lightning.pytorch, and this Trainer is pytorch_lightning's: "
                "the two packages share no class. Make the Trainer with `from lightning.pytorch import Trainer`. A module of "
                "pytorch_lightning is distilled with the callback lit_distill.Distill, in that package's Trainer."
            )
        return self.__wrapped__(model)
