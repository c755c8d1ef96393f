"""Checks of training data before they are recorded: whether they can be replayed, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from lit_distill.batch.batch import Batch, tensors_of
from lit_distill.recording.fingerprint import evenly_spaced
from lit_distill.recording.marks import mark
from lit_distill.recording.replay import ReplayData
from lit_distill.recording.seeding import Key

_COMPOSED = 8
_TRIALS = 4

Read = Callable[[Any, Sequence[Key]], Batch]


def replayable(loader: DataLoader[Any]) -> None:
    """Refuse a loader whose samples have no numbers: of a stream, or of a data set without length or with its own batches."""
    data = loader.dataset
    name = type(data).__name__
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise ValueError(
            f"a recorded teacher needs a map-style data set, with numbered samples, to have each again; {name} is an "
            "iterable one. Use a frozen teacher, or write the stream to files first."
        )
    if not isinstance(data, Sized):
        raise ValueError(f"a recorded teacher needs a data set of known length, and {name} has no __len__.")
    if loader.batch_sampler is None:
        raise ValueError(
            f"a recorded teacher needs a DataLoader that makes the batches, and this one has batch_size=None: {name} "
            "gives whole batches, whose samples have no numbers of their own."
        )


def choose_views(data: ReplayData, views: int | None) -> int:
    """Return the number of views to record: one if samples never change, and the given number if they do."""
    for index in evenly_spaced(len(data)):
        first, again = mark(data[0, index]), mark(data[0, index])
        if first != again:
            raise ValueError(
                f"sample {index} of the training data differs each time it is read, though Python's, NumPy's and "
                "PyTorch's global generators are seeded alike: it draws from a generator of its own, or from the "
                "clock, so that it cannot be had again. Let it draw from a global generator, or use a frozen teacher."
            )
        if views is None and first != mark(data[1, index]):
            raise ValueError(
                f"sample {index} of the training data differs each time it is read (random augmentation): set how many "
                "views of each sample to record, such as views: 10. Training sees these views in turn, one per epoch."
            )
    return views or 1


def mixes_samples(data: ReplayData, read: Read) -> bool:
    """Return True if a sample depends on its batch: MixUp, CutMix, noise drawn for a whole batch.

    The same views are put into batches of another order, and compared.
    """
    size = min(_COMPOSED, len(data))
    for view in range(_TRIALS):
        keys = [(view, index) for index in range(size)]
        one, other = (_rows(read(data.__getitems__(order), order)) for order in (keys, keys[::-1]))
        refuse_other_size(len(one[0]), len(keys))
        for a, b in zip(one, other, strict=True):
            if a.shape != b.shape or not torch.equal(a, b.flip(0)):
                return True
    return False


def refuse_other_size(found: int, expected: int) -> None:
    """Refuse a batch that does not hold the requested samples."""
    if found != expected:
        raise ValueError(
            f"a batch of {expected} samples came out of the loader with {found}: its collate function leaves some out "
            "or doubles some, so that samples cannot be told apart. Use a frozen teacher."
        )


def _rows(batch: Batch) -> list[torch.Tensor]:
    return [entry for entry in tensors_of((batch.inputs, batch.target)) if entry.dim()]


def refuse_unusual_sampler(loader: DataLoader[Any]) -> None:
    """Refuse samplers that choose samples by themselves, if the batches have to be fixed."""
    if not isinstance(loader.sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
        raise ValueError(
            "the training batches are mixed (MixUp, CutMix), so that a recording has to fix which samples meet in one, "
            f"and the loader's {type(loader.sampler).__name__} decides that itself; use shuffle=True, or a frozen teacher."
        )
