"""Replaces the training loader of one fit by the replaying one, whoever made that loader."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lit_distill.batch.as_trained import on_device
from lit_distill.batch.examples import Ahead
from lit_distill.recording.replay import ReplayLoader
from lit_distill.recording.seeding import Key, batch_seed, restored_generators, seed_generators
from lit_distill.utils.lightning_names import classes_named, is_overridden
from lit_distill.utils.patches import Patches

Replace = Callable[[DataLoader[Any]], ReplayLoader]
_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


class _Replaying:
    """The training loader, a ``CombinedLoader``, which replays from its first iteration on.

    Lightning has put its distributed sampler into the loader by then, and the first batch is not drawn yet.
    """

    flattened: list[Any]
    _iterator: Any

    def __init__(self, loader: DataLoader[Any], replace: Replace) -> None:
        super().__init__(loader, "max_size_cycle")  # type: ignore[call-arg]
        self._replace = replace

    def __iter__(self) -> Any:
        loader = self.flattened[0]
        if not isinstance(loader, ReplayLoader):
            self.flattened = [self._replace(loader)]
        super().__iter__()  # type: ignore[misc]
        return self

    def __len__(self) -> int:
        # Lightning reads it if something fails before the first iteration.
        length: int = super().__len__() if self._iterator is not None else len(self.flattened[0])  # type: ignore[misc]
        return length


def _loader_class(trainer: object) -> type[_Replaying]:
    """Return the replaying loader class for a Trainer's package, which takes no other's ``CombinedLoader``."""
    kinds = classes_named("utilities.combined_loader.CombinedLoader")
    (kind,) = (kind for kind in kinds if (kind is CombinedLoader) == isinstance(trainer, Trainer))

    class ReplayedLoader(_Replaying, kind):  # type: ignore[misc, valid-type]
        pass

    return ReplayedLoader


class ReplayedSource(_DataLoaderSource):
    """The trainer's source of its training loader, which it gives as a loader of class ``kind``."""

    def __init__(self, source: _DataLoaderSource, replace: Replace, kind: type[_Replaying]) -> None:
        super().__init__(source.instance, source.name)
        self._source, self._replace, self._kind = source, replace, kind

    def dataloader(self) -> Any:
        loader = self._source.dataloader()
        if isinstance(loader, Ahead):
            loader = loader.loader
        if not isinstance(loader, DataLoader):
            raise ValueError(f"a recorded teacher reads one DataLoader, not a {type(loader).__name__}.")
        return self._kind(loader, self._replace)


class ReplayedFit:
    """One fit whose training data are replayed, from before its training loader is made; ``end`` restores everything.

    ``current`` returns the views in the batch that is being transferred, or None if unknown; ``seed`` is that of what the
    transfer hooks draw.
    """

    def __init__(
        self, trainer: Trainer, replace: Replace, current: Callable[[], Sequence[Key] | None], seed: int
    ) -> None:
        self._trainer, self._current, self._seed = trainer, current, seed
        source = trainer.fit_loop._data_source
        self._patches = Patches()
        self._patches.set(trainer.fit_loop, "_data_source", ReplayedSource(source, replace, _loader_class(trainer)))
        for name in _HOOKS:
            for owner in (trainer.datamodule, trainer.lightning_module):  # type: ignore[attr-defined]
                if owner is not None and is_overridden(name, owner):
                    self._patches.set(owner, name, self._seeded(getattr(owner, name), name))

    def transfer(self, batch: Any) -> Any:
        """Prepare a loader's batch like a training batch, up to the training step."""
        trainer = self._trainer
        return on_device(trainer, trainer.lightning_module, batch, trainer.strategy.root_device)

    def end(self) -> None:
        """Restore the trainer's source and the hooks, once: a later fit may have set its own."""
        self._patches.restore()

    def _seeded(self, hook: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a transfer hook that draws what it drew when the batch was recorded."""

        @functools.wraps(hook)
        def seeded(batch: Any, dataloader_idx: int = 0) -> Any:
            keys = self._current() if self._trainer.training else None
            if keys is None:
                return hook(batch, dataloader_idx)
            device: torch.device = self._trainer.strategy.root_device
            with restored_generators(device):
                seed_generators(batch_seed(self._seed, keys, name), device)
                return hook(batch, dataloader_idx)

        return seeded
