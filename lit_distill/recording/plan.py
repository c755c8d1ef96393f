"""The rows of a recording: their order, the units that are recorded together, and the shards that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lit_distill.recording.seeding import Key, sample_seed

Indices = NDArray[np.int64]
_MOST_SHARDS = 256  # each open one holds a file descriptor
_FEWEST_ROWS = 4096


class Plan:
    """The rows of a recording, and the units in which they are made.

    Rows are numbered view after view. A unit is a run of rows that is recorded as one batch.

    Args:
        samples: Number of samples in the data set.
        views: Number of views per sample.
        batch_size: Number of rows per unit.
        fixed: A unit is also a training batch; its members are then drawn at random, and otherwise follow the data set's
            order.
        seed: The seed of that draw.
        drop_last: The training leaves a smaller last batch out.
    """

    def __init__(
        self, samples: int, views: int, batch_size: int, fixed: bool = False, seed: int = 0, drop_last: bool = False
    ) -> None:
        self.samples, self.views, self.batch_size = samples, views, batch_size
        self.fixed, self.seed, self.drop_last = fixed, seed, drop_last
        self._view = -1
        self._members = self._places = np.arange(samples)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.samples * self.views

    @property
    def units_per_view(self) -> int:
        """Number of units per view."""
        return -(-self.samples // self.batch_size)

    @property
    def whole_units_per_view(self) -> int:
        """Number of units per view that the training sees."""
        return self.samples // self.batch_size if self.drop_last else self.units_per_view

    @property
    def units(self) -> int:
        """Number of all units."""
        return self.units_per_view * self.views

    def first_row(self, unit: int) -> int:
        """Return the first row of a unit; the number of rows for the number of all units."""
        view, place = divmod(unit, self.units_per_view)
        return view * self.samples + place * self.batch_size

    def keys(self, unit: int) -> list[Key]:
        """Return the views in a unit, in the order of its rows."""
        view, place = divmod(unit, self.units_per_view)
        order = self._order(view)
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return [(view, int(index)) for index in chosen]

    def unit_of(self, key: Key) -> int:
        """Return the unit that holds a view."""
        place = int(self.rows_of([key])[0]) - key[0] * self.samples
        return key[0] * self.units_per_view + place // self.batch_size

    def rows_of(self, keys: Sequence[Key]) -> Indices:
        """Return the rows of views, which are all of one number in a fixed plan."""
        pairs = np.asarray(keys, dtype=np.int64).reshape(-1, 2)
        views, indices = pairs[:, 0], pairs[:, 1]
        if self.fixed:
            self._order(int(views[0]))
            indices = self._places[indices]
        return views * self.samples + indices

    def _order(self, view: int) -> Indices:
        """Return the samples of a view, place by place; one view is cached, as all batches of an epoch are of one."""
        if not self.fixed:
            return self._places
        if view != self._view:
            generator = torch.Generator().manual_seed(sample_seed(self.seed, (view, -2)))
            self._members = torch.randperm(self.samples, generator=generator).numpy()
            self._places = np.argsort(self._members)
            self._view = view
        return self._members


class Layout:
    """The grouping of a plan's units into shards."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        rows = max(_FEWEST_ROWS, -(-plan.rows // _MOST_SHARDS))
        self.units_per_shard = max(1, -(-rows // plan.batch_size))
        self.shards = -(-plan.units // self.units_per_shard)
        firsts = [plan.first_row(min(shard * self.units_per_shard, plan.units)) for shard in range(self.shards + 1)]
        self.first_rows: NDArray[np.int64] = np.asarray(firsts, dtype=np.int64)

    def units(self, shard: int) -> range:
        """Return the units of a shard."""
        first = shard * self.units_per_shard
        return range(first, min(first + self.units_per_shard, self.plan.units))

    def size(self, shard: int) -> int:
        """Return the number of rows of a shard."""
        return int(self.first_rows[shard + 1] - self.first_rows[shard])

    def split(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """Yield, for each shard with some of the rows: its number, their places in ``rows``, and their places in it."""
        owners = np.searchsorted(self.first_rows, rows, side="right") - 1
        for shard in np.unique(owners):
            places = np.flatnonzero(owners == shard)
            yield int(shard), places, rows[places] - self.first_rows[shard]
