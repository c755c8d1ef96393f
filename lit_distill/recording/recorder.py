"""Fills a recording: runs the teacher for what is missing, shard by shard, next to any number of other processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

from lit_distill.outputs import Outputs
from lit_distill.recording.encoding import Encoding, Rows
from lit_distill.recording.plan import Layout
from lit_distill.recording.preconditions import refuse_other_size
from lit_distill.recording.replay import Delivered, ReplayData, ReplayLoader
from lit_distill.recording.seeding import Key
from lit_distill.recording.store import Claim, RecordingStore

_PAUSE = 0.2

Ask = Callable[[Any, Sequence[Key]], Outputs]


@dataclass(frozen=True)
class RecordingReport:
    """The cost of a recording: rows of this process, time with waiting for others, mean probability in the kept classes."""

    rows: int
    seconds: float
    covered: float


class Recorder:
    """Records what is missing.

    Shards are claimed one at a time, so that processes share the work, and one that dies leaves no claim. Each of the ``of``
    processes begins at a place of its own, by its index ``share``. The workers are those of the loader ``like``. ``look`` is
    called after each batch, and may raise an error to end the recording.
    """

    def __init__(
        self,
        store: RecordingStore,
        layout: Layout,
        encoding: Encoding,
        data: ReplayData,
        like: DataLoader[Any],
        ask: Ask,
        share: int,
        of: int,
        show: bool,
        look: Callable[[], None],
    ) -> None:
        self._store, self._layout, self._encoding = store, layout, encoding
        self._data, self._like, self._ask = data, like, ask
        self._share, self._of, self._show, self._look = share, of, show, look
        self._rows = 0
        self._covered = 0.0

    def run(self) -> RecordingReport:
        """Record until nothing is missing; after an error, finished shards stay."""
        start = time.perf_counter()
        waiting = False
        missing = sum(self._layout.size(shard) for shard in self._store.missing())
        with tqdm(
            total=missing, desc="Recording the teacher", unit="sample", disable=not self._show or not missing
        ) as bar:
            while self._store.missing():
                if self._record_claimed(bar) == 0 and self._store.missing():
                    if not waiting:
                        rank_zero_info("Another process is recording the rest; waiting for it.")
                        waiting = True
                    time.sleep(_PAUSE)
                    self._look()
        covered = self._covered / self._rows if self._rows else 1.0
        return RecordingReport(self._rows, time.perf_counter() - start, covered)

    def _record_claimed(self, bar: Any) -> int:
        claims = _Claims(self._store, self._layout, self._share, self._of)
        loader = ReplayLoader(self._data, claims, self._like, marks=self._encoding.marked)
        parts: list[Rows] = []
        before = self._rows
        try:
            for batch in loader:
                if batch is None:
                    raise ValueError(
                        "the collate function gave None for a batch, which a recorded teacher cannot be asked about."
                    )
                delivered, (shard, unit) = loader.delivered.popleft(), claims.taken.popleft()
                parts.append(self._record(batch, delivered))
                bar.update(len(delivered.keys))
                if unit == self._layout.units(shard)[-1]:
                    self._store.write(shard, np.concatenate(parts))
                    claims.release(shard)
                    parts = []
                self._look()
        finally:
            claims.release_all()
        return self._rows - before

    def _record(self, batch: Any, delivered: Delivered) -> Rows:
        keys = delivered.keys
        outputs = self._ask(batch, keys)
        rows = self._encoding.encode(outputs, delivered.marks)
        refuse_other_size(len(rows), len(keys))
        self._rows += len(keys)
        self._covered += self._encoding.covered(outputs) * len(keys)
        return rows


class _Claims(Sampler[list[Key]]):
    """Yields the views of shards that nobody else records, claiming each shard when its turn comes."""

    def __init__(self, store: RecordingStore, layout: Layout, share: int, of: int) -> None:
        self._store, self._layout = store, layout
        self._share, self._of = share, of
        self._claims: dict[int, Claim] = {}
        self.drawn: deque[list[Key]] = deque()
        self.taken: deque[tuple[int, int]] = deque()

    def __iter__(self) -> Iterator[list[Key]]:
        missing = self._store.missing()
        begin = len(missing) * self._share // self._of
        for shard in missing[begin:] + missing[:begin]:
            claim = self._store.claim(shard)
            if claim is None:
                continue
            self._claims[shard] = claim
            for unit in self._layout.units(shard):
                keys = self._layout.plan.keys(unit)
                self.taken.append((shard, unit))
                self.drawn.append(keys)
                yield keys

    def release(self, shard: int) -> None:
        self._claims.pop(shard).release()

    def release_all(self) -> None:
        for shard in list(self._claims):
            self.release(shard)
