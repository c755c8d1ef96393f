"""One fit on a recording: opens or makes it, and reads the outputs of each training batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader

from lit_distill.batch import Batch
from lit_distill.outputs import Outputs
from lit_distill.recording.encoding import Encoding, Formats, dtype_to_json
from lit_distill.recording.fingerprint import fingerprint_data, installed_versions
from lit_distill.recording.plan import Plan
from lit_distill.recording.recorder import Recorder, Report
from lit_distill.recording.replay import FixedBatches, ReplayBatches, ReplayData, ReplayLoader
from lit_distill.recording.seeding import Key
from lit_distill.recording.source import ReplayedFit
from lit_distill.recording.store import MANIFEST, FolderStore, Layout, MemoryStore
from lit_distill.recording.survey import choose_views, mixes_samples, refuse_unusual_sampler, replayable
from lit_distill.signals import end_if_terminated

_CALIBRATION_BATCHES = 4
_DEFAULT_BATCH = 128
_LITTLE_COVERED = 0.9


@dataclass(frozen=True)
class Settings:
    """What a recording is asked to be.

    Attributes:
        path: Its folder; in memory where None.
        views: Of each sample; None where samples never change.
        seed: Of the views.
        formats: The stored types.
        ignore_versions: Accept a recording that other versions of PyTorch and its like have made.
    """

    path: Path | None
    views: int | None
    seed: int
    formats: Formats
    ignore_versions: bool


class Session:
    """Joins a trainer, its training data and a recording for one fit.

    Args:
        trainer: The running trainer, before it makes its training loader.
        settings: What the recording should be.
        unpack: Takes a batch on the device apart.
        ask: The live teacher's outputs for a batch.
        calibrate: Readies the teacher before it is first asked; is given what reads a few batches.
        marks: What the teacher is, for the manifest.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Settings,
        unpack: Callable[[Any], Batch],
        ask: Callable[[Batch], Outputs],
        calibrate: Callable[[Callable[[], Sequence[Batch]]], None],
        marks: Callable[[], dict[str, Any]],
    ) -> None:
        self._trainer, self._settings = trainer, settings
        self._unpack, self._ask, self._calibrate, self._marks = unpack, ask, calibrate, marks
        self._loader: ReplayLoader | None = None
        self._in_transfer: Sequence[Key] | None = None
        self.keys: Sequence[Key] | None = None
        self.report: Report | None = None
        self._fit = ReplayedFit(trainer, self._replace, self._transferred, settings.seed)

    def begin_batch(self) -> None:
        """Go on to the batch that the training step gets next."""
        self.keys = self._loader.delivered.popleft() if self._loader is not None and self._loader.delivered else None

    @property
    def epoch(self) -> int:
        """The trainer's current epoch."""
        return self._trainer.current_epoch

    def read(self, like: Tensor) -> Outputs:
        """The recorded outputs for the current batch, of the type and on the device of ``like``."""
        assert self.keys is not None
        return self.encoding.decode(self._store.read(self._plan.rows_of(self.keys)), like)

    def end(self) -> None:
        """Let the trainer go."""
        self._fit.end()

    def _transferred(self) -> Sequence[Key] | None:
        if self._in_transfer is not None:
            return self._in_transfer
        return self._loader.delivered[0] if self._loader is not None and self._loader.delivered else None

    def _batch(self, raw: Any, keys: Sequence[Key]) -> Batch:
        self._in_transfer = keys
        try:
            return self._unpack(self._fit.transfer(raw))
        finally:
            self._in_transfer = None

    def _replace(self, loader: DataLoader[Any]) -> ReplayLoader:
        """Record what is missing, and make the loader that replays it."""
        replayable(loader)
        data = ReplayData(loader.dataset, loader.collate_fn, self._settings.seed)
        with isolate_rng():
            views = choose_views(data, self._settings.views)
            fixed = mixes_samples(data, self._batch)
            if fixed:
                refuse_unusual_sampler(loader)
                views = self._views_of_mixed(views)
            self._open(data, loader, views, fixed)
            self._record(data, loader)
        self._loader = self._replaying(data, loader)
        return self._loader

    def _views_of_mixed(self, views: int) -> int:
        if self._settings.views is None:
            raise ValueError(
                "the training batches are mixed at random (MixUp, CutMix): say how many views of each sample to record, "
                "such as views: 10. Training sees these views in turn, one an epoch."
            )
        return views

    def _open(self, data: ReplayData, loader: DataLoader[Any], views: int, fixed: bool) -> None:
        size = getattr(loader.batch_sampler, "batch_size", None) or _DEFAULT_BATCH
        known = self._known_manifest()
        if not fixed and "layout" in known:
            size = known["layout"]["batch_size"]  # how the shards are cut does not matter to who reads them
        drop_last = bool(getattr(loader.batch_sampler, "drop_last", False))
        self._plan = Plan(len(data), views, size, fixed, self._settings.seed, drop_last)
        layout = Layout(self._plan)
        self._calibrate(lambda: self._some_batches(data))
        probe = self._plan.keys(0)[:2]
        example = self._ask(self._batch(data.__getitems__(probe), probe))
        self.encoding = Encoding(example.shapes(), self._settings.formats)
        manifest = {
            "format": "lit-distill recording 1",
            "teacher": self._marks(),
            "data": fingerprint_data(data, views),
            "views": {"number": views, "seed": self._settings.seed, "fixed_batches": fixed},
            "stored": {**asdict(self._settings.formats), "fields": dtype_to_json(self.encoding.dtype)},
            "layout": {"batch_size": size},
            "versions": known.get("versions") if self._settings.ignore_versions and known else installed_versions(),
        }
        self._layout = layout
        if self._settings.path is not None:
            self._store: FolderStore | MemoryStore = FolderStore(
                self._settings.path, layout, self.encoding.dtype, manifest
            )
        elif self._trainer.world_size > 1:
            raise ValueError("several processes share a recording in a folder: give RecordedTeacher a path.")
        else:
            self._store = MemoryStore(layout, self.encoding.dtype)

    def _known_manifest(self) -> dict[str, Any]:
        """The manifest that lies in the folder, if one does; whether it is whole is found when it is opened."""
        path = self._settings.path / MANIFEST if self._settings.path is not None else None
        if path is None or not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text())
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _some_batches(self, data: ReplayData) -> list[Batch]:
        """Batches from all over the recording, the same in every process and in every run."""
        step = max(1, self._plan.units // _CALIBRATION_BATCHES)
        batches = []
        for unit in range(0, self._plan.units, step)[:_CALIBRATION_BATCHES]:
            keys = self._plan.keys(unit)
            batches.append(self._batch(data.__getitems__(keys), keys))
        return batches

    def _record(self, data: ReplayData, loader: DataLoader[Any]) -> None:
        rank, of = self._trainer.global_rank, self._trainer.world_size
        if isinstance(self._store, FolderStore):
            self._store.verify(rank, of)
        show = rank == 0 and self._trainer.progress_bar_callback is not None
        look = partial(end_if_terminated, self._trainer)
        recorder = Recorder(self._store, self._layout, self.encoding, data, loader, self._ask_raw, rank, of, show, look)
        self.report = report = recorder.run()
        self._trainer.strategy.barrier("recorded")
        self._tell(report)

    def _ask_raw(self, raw: Any, keys: Sequence[Key]) -> Outputs:
        return self._ask(self._batch(raw, keys))

    def _tell(self, report: Report) -> None:
        rows, width = self._plan.rows, self.encoding.dtype.itemsize
        place = self._settings.path if self._settings.path is not None else "memory"
        what = f"{self._plan.samples:,} samples, {self._plan.views} view{'s' * (self._plan.views > 1)} of each"
        if report.rows:
            speed = report.rows / max(report.seconds, 1e-9)
            rank_zero_info(
                f"Recorded the teacher in {place}: {what}, {rows * width / 1e6:,.1f} MB ({speed:,.0f} a second)."
            )
        else:
            rank_zero_info(f"Reading the recorded teacher in {place}: {what}.")
        if report.covered < _LITTLE_COVERED:
            rank_zero_warn(
                f"the {self._settings.formats.top_k} largest classes hold {report.covered:.0%} of the teacher's probability; "
                f"keep more (top_k) for at least {_LITTLE_COVERED:.0%}."
            )

    def _replaying(self, data: ReplayData, loader: DataLoader[Any]) -> ReplayLoader:
        trainer = self._trainer
        assert loader.batch_sampler is not None
        if not self._plan.fixed:
            batches = ReplayBatches(loader.batch_sampler, self._plan.views, lambda: trainer.current_epoch)
        else:
            batches = FixedBatches(
                self._plan,
                len(loader),
                lambda: trainer.current_epoch,
                trainer.global_rank,
                trainer.world_size,
                self._settings.seed,
            )
        return ReplayLoader(data, batches, loader, loader.generator)


def disagreement(recorded: Outputs, live: Outputs) -> float:
    """Share of a batch's samples whose recorded outputs are far from what the teacher says now."""
    pairs = [(recorded.logits, live.logits)] if recorded.logits.numel() else []
    pairs += [(feature, live.features[name]) for name, feature in recorded.features.items()]
    far = torch.zeros(len(pairs[0][0]), dtype=torch.bool, device=pairs[0][0].device)
    for one, other in pairs:
        a, b = one.float().flatten(1), other.float().flatten(1)
        spread = (b - b.mean(1, keepdim=True)).norm(dim=1) + 1e-3 * b.norm(dim=1) + 1e-6
        far |= (a - b).norm(dim=1) > 0.25 * spread
    return float(far.float().mean())
