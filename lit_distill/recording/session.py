"""One fit on a recording: opens or makes it, and reads the outputs of each training batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader

from lit_distill.batch.batch import Batch
from lit_distill.batch.positions import input_mask
from lit_distill.outputs import Outputs
from lit_distill.recording.encoding import Encoding, dtype_to_json
from lit_distill.recording.fingerprint import fingerprint_data, installed_versions, looked_at, manifest_differences
from lit_distill.recording.manifest import FORMAT, UNMARKED, known_manifest, only_digest_differs
from lit_distill.recording.marks import FIELD
from lit_distill.recording.plan import Layout, Plan
from lit_distill.recording.preconditions import choose_views, mixes_samples, refuse_unusual_sampler, replayable
from lit_distill.recording.recorder import Recorder, RecordingReport
from lit_distill.recording.replay import Delivered, FixedBatches, ReplayBatches, ReplayData, ReplayLoader
from lit_distill.recording.seeding import Key
from lit_distill.recording.settings import Settings
from lit_distill.recording.store import FolderStore, MemoryStore, stale
from lit_distill.recording.trainer_patch import ReplayedFit
from lit_distill.recording.watch import Watch
from lit_distill.utils.notices import warn
from lit_distill.utils.signals import end_if_terminated

_CALIBRATION_BATCHES = 4
_DEFAULT_BATCH = 128
_LITTLE_COVERED = 0.9


class Session:
    """Joins a trainer, its training data and a recording for one fit.

    Args:
        trainer: The running trainer, before it makes its training loader.
        settings: The settings of the recording.
        unpack: Takes a batch on the device apart.
        ask: Returns the live teacher's outputs for a batch.
        calibrate: Prepares the teacher before its first call, with a function that reads a few batches.
        marks: Returns the identity of the teacher, for the manifest.
        far: Compares recorded and live outputs under a mask, and returns True for samples that differ, ``[B]``.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Settings,
        unpack: Callable[[Any], Batch],
        ask: Callable[[Batch], Outputs],
        calibrate: Callable[[Callable[[], Sequence[Batch]]], None],
        marks: Callable[[], dict[str, Any]],
        far: Callable[[Outputs, Outputs, Tensor | None], Tensor],
    ) -> None:
        self._trainer, self._settings = trainer, settings
        self._unpack, self._ask, self._calibrate, self._marks, self._far = unpack, ask, calibrate, marks, far
        self._delivered: deque[Delivered] = deque()  # to the training loop, and not yet begun
        self._in_transfer: Sequence[Key] | None = None
        self.current: Delivered | None = None
        self.watch = Watch(settings.path or "memory")
        self.report: RecordingReport | None = None
        self._fit = ReplayedFit(trainer, self._replace, self._transferred, settings.seed)

    def begin_batch(self) -> None:
        """Go on to the next batch of the training step, and read its records."""
        self.current = self._delivered.popleft() if self._delivered else None
        if self.current is not None:
            self._rows = self._store.read(self._plan.rows_of(self.current.keys))
            marks = self._rows[FIELD] if self.encoding.marked else None
            self.watch.begin(self._trainer.current_epoch, self._trainer.fit_loop.batch_idx, self.current, marks)

    def read(self, like: Tensor) -> Outputs:
        """Return the recorded outputs for the current batch, in the type and on the device of ``like``."""
        return self.encoding.decode(self._rows, like)

    def end(self) -> None:
        """Restore the trainer."""
        self.current = None
        self._fit.end()

    def _transferred(self) -> Sequence[Key] | None:
        if self._in_transfer is not None:
            return self._in_transfer
        return self._delivered[0].keys if self._delivered else None

    def _batch(self, raw: Any, keys: Sequence[Key]) -> Batch:
        self._in_transfer = keys
        try:
            return self._unpack(self._fit.transfer(raw))
        finally:
            self._in_transfer = None

    def _read_views(self, data: ReplayData, keys: list[Key]) -> Batch:
        return self._batch(data.__getitems__(keys), keys)

    def _replace(self, loader: DataLoader[Any]) -> ReplayLoader:
        replayable(loader)
        data = ReplayData(loader.dataset, loader.collate_fn, self._settings.seed)
        with isolate_rng():
            views = choose_views(data, self._settings.views)
            fixed = mixes_samples(data, self._batch)
            if fixed:
                refuse_unusual_sampler(loader)
                if self._settings.views is None:
                    raise ValueError(
                        "the training batches are mixed at random (MixUp, CutMix): set how many views of each sample to "
                        "record, such as views: 10. Training sees these views in turn, one per epoch."
                    )
            self._open(data, loader, views, fixed)
            self._record(data, loader)
        replaying = self._replaying(data, loader)
        self._delivered = replaying.delivered
        return replaying

    def _open(self, data: ReplayData, loader: DataLoader[Any], views: int, fixed: bool) -> None:
        size = getattr(loader.batch_sampler, "batch_size", None) or _DEFAULT_BATCH
        known = known_manifest(self._settings.path)
        if not fixed and known:
            size = known["layout"]["batch_size"]  # the cut into shards does not matter to readers
        drop_last = bool(getattr(loader.batch_sampler, "drop_last", False))
        self._plan = Plan(len(data), views, size, fixed, self._settings.seed, drop_last)
        self._layout = Layout(self._plan)
        step = max(1, self._plan.units // _CALIBRATION_BATCHES)  # from all over, the same in every process and run
        units = range(0, self._plan.units, step)[:_CALIBRATION_BATCHES]
        self._calibrate(lambda: [self._read_views(data, self._plan.keys(unit)) for unit in units])
        example = self._ask(self._read_views(data, self._plan.keys(0)[:2]))
        marked = known.get("format") != UNMARKED
        self.encoding = Encoding(example.shapes(), self._settings.formats, marked)
        manifest = {
            "format": FORMAT if marked else UNMARKED,
            "teacher": self._marks(),
            "data": fingerprint_data(data, views, marked),
            "views": {"number": views, "seed": self._settings.seed, "fixed_batches": fixed},
            "stored": {**asdict(self._settings.formats), "fields": dtype_to_json(self.encoding.dtype)},
            "layout": {"batch_size": size},
            "versions": known.get("versions") if self._settings.ignore_versions and known else installed_versions(),
        }
        self._store = self._opened(manifest, known, data)

    def _opened(self, manifest: dict[str, Any], known: dict[str, Any], data: ReplayData) -> FolderStore | MemoryStore:
        path = self._settings.path
        if path is None:
            if self._trainer.world_size > 1:
                raise ValueError("several processes share a recording in a folder: give RecordedTeacher a path.")
            return MemoryStore(self._layout, self.encoding.dtype)
        if known and not self.encoding.marked:
            warn(
                f"the recording in {path} was made by an earlier version, which kept no marks of the samples: changed data "
                "are noticed only in 16 samples and in the batches on which the live teacher runs. Delete it to record anew."
            )
        if not (self.encoding.marked and only_digest_differs(known, manifest)):
            return FolderStore(path, self._layout, self.encoding.dtype, manifest)
        store = FolderStore(path, self._layout, self.encoding.dtype, known)
        store.verify()
        self._ask_about_recorded(store, data, manifest_differences(known, manifest))
        return store

    def _ask_about_recorded(self, store: FolderStore, data: ReplayData, differ: list[str]) -> None:
        """Refuse samples that differ from those recorded, unless the teacher's outputs are the same (labels may differ)."""
        missing = set(store.missing())
        units = {self._plan.unit_of(key) for key in looked_at(len(data), self._plan.views)}
        recorded = sorted(unit for unit in units if unit // self._layout.units_per_shard not in missing)
        agrees = bool(recorded)
        for unit in recorded:
            keys = self._plan.keys(unit)
            batch = self._read_views(data, keys)
            live = self._ask(batch)
            found = self.encoding.decode(store.read(self._plan.rows_of(keys)), live.tensors()[0])
            agrees = agrees and not bool(self._far(found, live, input_mask(batch)).any())
        if not agrees:
            raise stale(self._settings.path, differ)

    def _record(self, data: ReplayData, loader: DataLoader[Any]) -> None:
        rank, of = self._trainer.global_rank, self._trainer.world_size
        if isinstance(self._store, FolderStore):
            self._store.verify(rank, of)
        show = rank == 0 and self._trainer.progress_bar_callback is not None
        look = partial(end_if_terminated, self._trainer)
        recorder = Recorder(self._store, self._layout, self.encoding, data, loader, self._ask_raw, rank, of, show, look)
        self.report = report = recorder.run()
        self._trainer.strategy.barrier("recorded")
        self._log(report)

    def _ask_raw(self, raw: Any, keys: Sequence[Key]) -> Outputs:
        return self._ask(self._batch(raw, keys))

    def _log(self, report: RecordingReport) -> None:
        rows, width = self._plan.rows, self.encoding.dtype.itemsize
        place = self._settings.path or "memory"
        what = f"{self._plan.samples:,} samples, {self._plan.views} view{'s' * (self._plan.views > 1)} of each"
        if report.rows:
            speed = report.rows / max(report.seconds, 1e-9)
            rank_zero_info(
                f"Recorded the teacher in {place}: {what}, {rows * width / 1e6:,.1f} MB ({speed:,.0f} per second)."
            )
        else:
            rank_zero_info(f"Reading the recorded teacher in {place}: {what}.")
        if report.covered < _LITTLE_COVERED:
            rank_zero_warn(
                f"the {self._settings.formats.top_k} largest classes hold {report.covered:.0%} of the teacher's probability; "
                f"keep more (top_k) for at least {_LITTLE_COVERED:.0%}."
            )

    def _replaying(self, data: ReplayData, loader: DataLoader[Any]) -> ReplayLoader:
        trainer, plan = self._trainer, self._plan

        def epoch() -> int:
            return trainer.current_epoch

        if plan.fixed:
            rank, of = trainer.global_rank, trainer.world_size
            batches: ReplayBatches = FixedBatches(plan, len(loader), epoch, rank, of, self._settings.seed)
        else:
            batches = ReplayBatches(loader.batch_sampler, plan.views, epoch)
        return ReplayLoader(data, batches, loader, loader.generator)
