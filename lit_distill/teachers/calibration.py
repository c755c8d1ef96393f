"""A few training batches, read without starting workers and without touching any random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lit_distill.batch import Inputs
from lit_distill.probe import first_loader

_BATCHES = 4
_SAMPLES = 64


def calibration_inputs(trainer: Trainer, read: Callable[[Any], Inputs]) -> list[Inputs]:
    """Up to 256 training samples in four batches, spread evenly over the data set.

    Args:
        trainer: The running trainer; its training loader is ready.
        read: Takes a loader's batch to the model's inputs, on the module's device.
    """
    with isolate_rng():
        return [read(batch) for batch in _batches(first_loader(trainer.train_dataloader))]


def _batches(loader: Any) -> Iterator[Any]:
    dataset = getattr(loader, "dataset", None)
    sampled = isinstance(loader, DataLoader) and loader.batch_sampler is not None
    if not (sampled and isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
        yield from islice(iter(loader), _BATCHES)
        return
    count = min(_BATCHES * _SAMPLES, len(dataset))
    indices = torch.linspace(0, len(dataset) - 1, count).long().tolist()
    for start in range(0, count, _SAMPLES):
        chosen = indices[start : start + _SAMPLES]
        many = getattr(dataset, "__getitems__", None)
        yield loader.collate_fn(many(chosen) if many else [dataset[index] for index in chosen])
