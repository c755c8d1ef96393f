"""Example batches from the training data before the first batch, to size projectors and to find mistakes.

The data are read as the fit reads them, by the trainer's own loader, sampler, workers, collate function and transfer hooks. No
loader is made twice, no stream loses a batch, and random states stay as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.data import _auto_add_worker_init_fn
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.data_connector import _request_dataloader
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader, IterableDataset

from lit_distill.batch.loaders import collating, refuse_no_loader
from lit_distill.utils.rng import own_generators_kept

_SAMPLES = 2


@dataclass
class TrainingData:
    """The training loaders of a fit that is about to begin."""

    loaders: Any  # one, a list or a dict of them, or a CombinedLoader; None for no data
    resumed: bool  # from a checkpoint
    rank: int

    @property
    def several(self) -> bool:
        """True if each training batch is a list or a dict of batches, one from each loader."""
        return isinstance(self._structure(), (list, tuple, dict))

    def example(self, whole: bool = False) -> Any:
        """Return a training batch of two samples, or as many as the loop will get, in the loaders' structure.

        None if a stream cannot be read beforehand, because it resumes from a checkpoint. Refuse data that are missing or empty.
        """
        if self.loaders is None:
            raise ValueError("no training data: give Trainer.fit a datamodule or a train DataLoader.")
        flat, structure = tree_flatten(self._structure())
        if self.resumed and not all(has_numbered_samples(loader) or isinstance(loader, Ahead) for loader in flat):
            return None
        with isolate_rng():
            for loader in flat or [self._structure()]:
                refuse_no_loader(loader)
            read = [self._read(loader, whole) for loader in flat]
        if any(batch is None for _, batch in read):
            raise ValueError("the training DataLoader yields None instead of a batch; check its collate function.")
        self._replace([loader for loader, _ in read], structure)
        return tree_unflatten([batch for _, batch in read], structure)

    def _structure(self) -> Any:
        return self.loaders.iterables if _is_combined(self.loaders) else self.loaders

    def _replace(self, flat: list[Any], structure: Any) -> None:
        if _is_combined(self.loaders):
            self.loaders.flattened = flat
        else:
            self.loaders = tree_unflatten(flat, structure)

    def _read(self, loader: Any, whole: bool) -> tuple[Any, Any]:
        if has_numbered_samples(loader):
            return loader, numbered_samples(loader, whole)
        if not isinstance(loader, Ahead):
            _auto_add_worker_init_fn(loader, self.rank)
            loader = Ahead(loader)
        return loader, loader.example


class Ahead:
    """An iterable whose first batch was read already: its first pass begins with that one."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._iterator: Iterator[Any] | None = iter(loader)
        with collating(getattr(loader, "dataset", loader)):
            self.example: Any = _next(self._iterator)

    def __iter__(self) -> Iterator[Any]:
        # A generator, as Lightning also asks for iterators that it never advances. No `yield from`: it would close theirs.
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            yield self.example
        for batch in self.loader if iterator is None else iterator:  # noqa: UP028
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


def training_data(trainer: Trainer) -> TrainingData:
    """Return the training loaders, made once: the loop gets these, and what was read of a stream."""
    # No public call covers a datamodule, a module's own loader and a loader passed to fit() at once.
    source = trainer.fit_loop._data_source
    vars(source).pop("dataloader", None)  # left by a fit that ended before its loop asked
    resumed = trainer.ckpt_path is not None
    loaders = _request_dataloader(source) if source.is_defined() and source.instance is not None else None
    data = TrainingData(loaders, resumed, trainer.global_rank)
    instance = source.instance

    def dataloader() -> Any:
        vars(source).pop("dataloader", None)
        return data.loaders if source.instance is instance else source.dataloader()

    vars(source)["dataloader"] = dataloader
    return data


def let_go(trainer: Trainer) -> None:
    """Forget training loaders that no loop has asked for, because the fit ended with an error."""
    vars(trainer.fit_loop._data_source).pop("dataloader", None)


def _is_combined(loaders: Any) -> bool:
    """Return True for a ``CombinedLoader`` of Lightning, under either of its names."""
    return hasattr(loaders, "iterables") and hasattr(loaders, "flattened")


def has_numbered_samples(loader: Any) -> bool:
    """Return True if samples can be read without drawing from the loader's own iterator."""
    kind = type(loader)
    return (
        isinstance(loader, DataLoader)
        and kind.__iter__ is DataLoader.__iter__
        and kind._get_iterator is DataLoader._get_iterator
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
        and hasattr(loader.dataset, "__getitem__")
    )


def numbered_samples(loader: DataLoader[Any], whole: bool) -> Any:
    """Return the first samples that the loader's sampler names, collated; by a worker if it has workers."""
    if isinstance(loader.dataset, Sized) and len(loader.dataset) == 0:
        raise ValueError(f"the training data set ({type(loader.dataset).__name__}) is empty.")
    keys = _first_keys(loader)
    return read_samples(loader, keys if whole else (keys * _SAMPLES)[:_SAMPLES])


def read_samples(loader: DataLoader[Any], keys: list[Any]) -> Any:
    """Return samples of a loader's data set, collated by it; by a worker if it has workers."""
    reader = DataLoader(
        loader.dataset,
        batch_sampler=[keys],
        num_workers=min(1, loader.num_workers),
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if loader.num_workers else None,
        timeout=loader.timeout if loader.num_workers else 0,
    )
    data = loader.dataset
    with own_generators_kept(data, getattr(data, "dataset", None), getattr(data, "transform", None)), collating(data):
        return _next(iter(reader))


def _first_keys(loader: DataLoader[Any]) -> list[Any]:
    """Return the first batch of the sampler, which stays as it was."""
    given = loader.batch_sampler
    sampler = getattr(given, "sampler", None)
    data = (loader.dataset, getattr(sampler, "data_source", None))
    try:  # a copy, as samplers may count and draw; the data are shared
        batches = copy.deepcopy(given, {id(one): one for one in data})
    except Exception:  # a generator or a lock cannot be copied
        batches = given
    with own_generators_kept(loader, given, sampler):
        return list(_next(iter(batches)))  # type: ignore[arg-type]


def _next(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator)
    except StopIteration:
        raise ValueError("the training DataLoader is empty.") from None


def first_loader(loaders: Any) -> Any:
    """Return the first DataLoader of a loader, a list, a dict or a ``CombinedLoader``."""
    flattened = getattr(loaders, "flattened", None)
    if flattened is not None:
        return flattened[0]
    if isinstance(loaders, dict):
        return next(iter(loaders.values()), None)
    if isinstance(loaders, (list, tuple)) and loaders and isinstance(loaders[0], DataLoader):
        return loaders[0]
    return loaders
