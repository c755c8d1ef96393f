"""Training samples to calibrate an int8 network on, read without changing any random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler

from lit_distill.batch.batch import Inputs
from lit_distill.batch.examples import Ahead, first_loader, has_numbered_samples, numbered_samples, read_samples

_BATCHES = 4
_SAMPLES = 64


def calibration_inputs(trainer: Trainer, read: Callable[[Any], Inputs]) -> list[Inputs]:
    """Return up to 256 training samples in four batches, spread evenly over the data set."""
    with isolate_rng():
        return [read(batch) for batch in calibration_batches(first_loader(trainer.train_dataloader))]


def calibration_batches(loader: Any, most: int = _BATCHES * _SAMPLES) -> Iterator[Any]:
    """Yield up to ``most`` samples of a loader, 64 a batch, spread evenly over the data set; of a stream, four batches."""
    if isinstance(loader, Ahead):  # a stream: no more can be read
        yield loader.example
        return
    if not has_numbered_samples(loader):
        yield from islice(iter(loader), _BATCHES)
        return
    if not in_plain_order(loader):
        yield numbered_samples(loader, whole=True)  # its samples may have names of any kind
        return
    count = min(most, len(loader.dataset))
    indices = torch.linspace(0, len(loader.dataset) - 1, count).long().tolist()
    for start in range(0, count, _SAMPLES):
        yield read_samples(loader, indices[start : start + _SAMPLES])


def in_plain_order(loader: Any) -> bool:
    """Return True if a loader's samples are numbered from 0."""
    return has_numbered_samples(loader) and isinstance(
        loader.sampler, (RandomSampler, SequentialSampler, DistributedSampler)
    )
