"""The training data as a recording knows them: numbered views of samples that can be repeated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lit_distill.recording.marks import Marks, mark, marks_of_rows
from lit_distill.recording.plan import Plan
from lit_distill.recording.seeding import Key, batch_seed, restored_generators, sample_seed, seed_generators


class ReplayData(Dataset[Any]):
    """A map-style data set whose random augmentation is fixed by the number of a view.

    The global generators are seeded before each sample is read, and restored afterwards. A data set that
    augments in batch has ``get_seeded(indices, seeds)``, which returns a collated batch; its samples are marked row by row,
    or by its own ``get_marks(indices)``, 32 bits of each stored sample.
    """

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any], seed: int) -> None:
        self.data, self.collate, self.seed = data, collate, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Any:
        """Return one view of one sample, as the data set gives it."""
        if hasattr(self.data, "get_seeded"):
            return self.data.get_seeded([key[1]], [sample_seed(self.seed, key)])
        return self._read([key])[0]

    def __getitems__(self, keys: list[Key]) -> Any:
        """Return a collated batch."""
        return self.marked(keys, marks=False)[0]

    def marked(self, keys: Sequence[Key], marks: bool = True) -> tuple[Any, Marks | None]:
        """Return a collated batch, and the mark of each sample before it was collated; None for them without marks."""
        if hasattr(self.data, "get_seeded"):
            seeds = [sample_seed(self.seed, key) for key in keys]
            batch = self.data.get_seeded([index for _, index in keys], seeds)
            return batch, self._marks_of_batch(batch, keys) if marks else None
        found: list[int] | None = [] if marks else None
        samples = self._read(keys, found)
        with restored_generators():
            seed_generators(batch_seed(self.seed, keys, "collate"))
            return self.collate(samples), None if found is None else np.asarray(found, dtype=np.uint32)

    def _marks_of_batch(self, batch: Any, keys: Sequence[Key]) -> Marks:
        if hasattr(self.data, "get_marks"):
            own: Marks = self.data.get_marks([index for _, index in keys])
            return own
        return marks_of_rows(batch, len(keys))

    def _read(self, keys: Sequence[Key], marks: list[int] | None = None) -> list[Any]:
        """Read samples; add their marks to a list, if given, while each still lies in the processor's cache."""
        samples = []
        with restored_generators():
            for key in keys:
                seed_generators(sample_seed(self.seed, key))
                samples.append(self.data[key[1]])
                if marks is not None:
                    marks.append(mark(samples[-1]))
        return samples


class MarkedBatches(Dataset[Any]):
    """Batches of views with their marks, for a loader that fetches whole batches."""

    def __init__(self, data: ReplayData, marks: bool) -> None:
        self.data, self.marks = data, marks

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, keys: list[Key]) -> tuple[Any, Marks | None]:
        return self.data.marked(keys, self.marks)


class ReplayBatches(Sampler[list[Key]]):
    """The batches of the loader's own batch sampler, in the view of the current epoch: ``e`` sees view ``e % views``."""

    def __init__(self, batches: Any, views: int, epoch: Callable[[], int]) -> None:
        self.batches, self.views, self.epoch = batches, views, epoch
        self.sampler = getattr(batches, "sampler", None)  # where Lightning looks for one to set the epoch
        self.batch_size = getattr(batches, "batch_size", None)
        self.drawn: deque[list[Key]] = deque()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        self.drawn.clear()
        for keys in self._keys(self.epoch()):
            self.drawn.append(keys)
            yield keys

    def _keys(self, epoch: int) -> Iterator[list[Key]]:
        view = epoch % self.views
        for indices in self.batches:
            yield [(view, int(index)) for index in indices]


class FixedBatches(ReplayBatches):
    """Batches whose members are the same each time a view comes round: what MixUp mixes has to stay together.

    Their order is drawn anew for each epoch. Processes take turns, for ``count`` batches each; short plans begin again.
    """

    def __init__(
        self, plan: Plan, count: int, epoch: Callable[[], int], rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> None:
        super().__init__(range(count), plan.views, epoch)
        self.plan, self.rank, self.world_size, self.seed = plan, rank, world_size, seed
        self.batch_size = plan.batch_size

    def _keys(self, epoch: int) -> Iterator[list[Key]]:
        first = (epoch % self.plan.views) * self.plan.units_per_view
        whole = self.plan.whole_units_per_view or self.plan.units_per_view
        generator = torch.Generator().manual_seed(sample_seed(self.seed, (epoch, -1)))
        order = torch.randperm(whole, generator=generator).tolist()
        for place in range(len(self)):
            yield self.plan.keys(first + order[(place * self.world_size + self.rank) % whole])


@dataclass(frozen=True)
class Delivered:
    """The content of a batch: its views, and the marks of its samples as they were read, if there are any."""

    keys: list[Key]
    marks: Marks | None = None


class ReplayLoader(DataLoader[Any]):
    """A DataLoader of views that knows which ones each batch held; the batches themselves stay as they are.

    ``batches`` yields the views of each batch, and keeps them in ``drawn``. Workers and pinning
    are those of the loader ``like``.
    """

    def __init__(
        self,
        data: ReplayData,
        batches: Any,
        like: DataLoader[Any],
        generator: torch.Generator | None = None,
        marks: bool = True,
    ) -> None:
        super().__init__(
            MarkedBatches(data, marks),
            batch_sampler=batches,
            collate_fn=as_it_is,
            num_workers=like.num_workers,
            pin_memory=like.pin_memory,
            timeout=like.timeout,
            worker_init_fn=like.worker_init_fn,
            multiprocessing_context=like.multiprocessing_context,
            generator=generator,
            prefetch_factor=like.prefetch_factor,
            persistent_workers=like.persistent_workers,
        )
        self.batches = batches
        self.delivered: deque[Delivered] = deque()

    def __iter__(self) -> Any:
        self.delivered.clear()
        return self._deliver(super().__iter__())

    def _deliver(self, batches: Any) -> Iterator[Any]:
        """Pass batches on and note their content: a DataLoader delivers in the order in which it drew."""
        for batch, marks in batches:
            keys = self.batches.drawn.popleft()
            if batch is not None:  # Lightning passes over an empty batch
                self.delivered.append(Delivered(keys, marks))
            yield batch


def as_it_is(batch: Any) -> Any:
    """Collate what is a batch already."""
    return batch
