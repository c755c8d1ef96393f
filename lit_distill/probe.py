"""A look at the data and the networks before the first batch: sizes projectors, finds mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader

_SAMPLES = 2


def example_batch(trainer: Trainer) -> Any:
    """A few training samples, collated, without starting workers or touching any random state.

    Raises:
        ValueError: There is no training data, or it is empty.
    """
    with isolate_rng():
        loader = _given(first_loader(_training_loaders(trainer)))
        if (
            isinstance(loader, DataLoader)
            and isinstance(loader.dataset, Sized)
            and hasattr(loader.dataset, "__getitem__")
        ):
            if len(loader.dataset) == 0:
                raise ValueError(f"the training data set ({type(loader.dataset).__name__}) is empty.")
            if loader.batch_sampler is not None:
                indices = [index % len(loader.dataset) for index in range(_SAMPLES)]
                return loader.collate_fn([loader.dataset[index] for index in indices])
        return _first_of(loader)


def whole_batch(trainer: Trainer) -> Any:
    """The first training batch as the loop will give it, of several loaders where there are several.

    Raises:
        ValueError: There is no training data, or it is empty.
    """
    with isolate_rng():
        loaders = _given(_training_loaders(trainer))
        combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
        return _first_of(combined)[0]


def _training_loaders(trainer: Trainer) -> Any:
    # No public call covers a datamodule, a module's own loader and a loader passed to fit() at once.
    source = trainer.fit_loop._data_source
    return source.dataloader() if source.is_defined() else None


def _given(loaders: Any) -> Any:
    if loaders is None:
        raise ValueError("no training data: give Trainer.fit a datamodule or a train DataLoader.")
    return loaders


def _first_of(loader: Any) -> Any:
    try:
        return next(iter(loader))
    except StopIteration:
        raise ValueError("the training DataLoader is empty.") from None


def first_loader(loaders: Any) -> Any:
    """The first DataLoader of what may be one, a list, a dict or a ``CombinedLoader`` of them."""
    flattened = getattr(loaders, "flattened", None)
    if flattened is not None:
        return flattened[0]
    if isinstance(loaders, dict):
        return next(iter(loaders.values()), None)
    if isinstance(loaders, (list, tuple)) and loaders and isinstance(loaders[0], DataLoader):
        return loaders[0]
    return loaders


@contextmanager
def as_in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode, eagerly, leaving modes, buffers and random states as they were."""
    modes = [(child, child.training) for module in modules for child in module.modules()]
    for module in modules:
        module.eval()
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for child, training in modes:
            child.training = training


def unreached_parameters(loss: Tensor, module: nn.Module) -> list[str]:
    """Names of the trainable parameters that a loss sends no gradient to."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    return [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None]


def count_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
