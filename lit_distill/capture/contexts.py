"""Contexts of a forward pass that is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def muted(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Turn off logging of LightningModules in the block: a Trainer only lets its own module log."""
    before = [vars(module).get("log") for module in modules]
    for module in modules:
        vars(module)["log"] = _log_nothing
    try:
        yield
    finally:
        for module, log in zip(modules, before, strict=True):
            if log is None:
                del vars(module)["log"]
            else:
                vars(module)["log"] = log


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def dense_encoders(reading: bool) -> Iterator[None]:
    """Turn off the fast path of PyTorch's Transformer encoders, if layers are read: it gives nested tensors without padding."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    if not (reading and enabled):
        yield
        return
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
