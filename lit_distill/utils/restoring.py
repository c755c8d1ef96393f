"""Runs modules and leaves their modes, buffers and random states as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_distill.utils.bits import value_digest


@contextmanager
def as_in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode, eagerly, and restore modes, buffers and random states."""
    with unchanged(*modules):
        for module in modules:
            module.eval()
        yield


@contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Run modules eagerly, and restore modes, buffers (statistics, observers) and random states."""
    children = [child for module in modules for child in module.modules()]
    modes = [(child, child.training) for child in children]
    buffers = [
        (child, name, buffer, buffer.detach().clone())
        for child in children
        for name, buffer in child._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for child, training in modes:
            child.training = training
        for child, name, buffer, value in buffers:
            child._buffers[name] = buffer
            if buffer.shape != value.shape:  # observers resize theirs
                buffer.data = value
            elif buffer.device.type != "meta" and not _hold_the_same(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


def _hold_the_same(one: Tensor, other: Tensor) -> bool:
    if one.layout == other.layout == torch.strided:
        return torch.equal(one, other)
    return value_digest(one) == value_digest(other)  # sparse ones cannot be compared
