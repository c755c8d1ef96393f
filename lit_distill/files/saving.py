"""Makes a Trainer save its checkpoints whole or not at all.

Lightning's own way goes through ``$TMPDIR`` and copies from there if that is another file system: a kill or a full disk
during the copy loses the previous checkpoint too.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer

from lit_distill.files.whole_file import write_whole
from lit_distill.utils.lightning_names import is_a

_Path = str | Path


class WholeCheckpoints(CheckpointIO):
    """Saves checkpoints to local files whole or not at all; ``inner``, Lightning's own of either package, does the rest."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._newest: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any = None) -> None:
        place = local_path(path)
        if place is None or storage_options is not None:
            self.inner.save_checkpoint(checkpoint, path, storage_options=storage_options)
            return
        content = io.BytesIO()  # PyTorch's own writing to a file does not say why it failed
        torch.save(checkpoint, content)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, content.getbuffer())
        self._newest = place

    def load_checkpoint(
        self, path: _Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # Lightning's default, and what its older versions know.
        options: dict[str, Any] = {"map_location": map_location or (lambda storage, location: storage)}
        if weights_only is not None:
            options["weights_only"] = weights_only
        loaded: dict[str, Any] = self.inner.load_checkpoint(path, **options)
        return loaded

    def remove_checkpoint(self, path: _Path) -> None:
        place = local_path(path)
        if place is not None and self._newest is not None:
            _lead_on(place, self._newest)
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        self.inner.teardown()


def save_whole(trainer: Trainer) -> None:
    """Make a Trainer write its checkpoints whole, if it uses Lightning's plain ``CheckpointIO``.

    It stays so after the run, for ``trainer.save_checkpoint``. A ``CheckpointIO`` of the user's stays as it is.
    """
    strategy = trainer.strategy
    given = strategy.checkpoint_io
    if _is_plain(given):
        strategy.checkpoint_io = WholeCheckpoints(given)
    while is_a(given, "plugins.io.wrapper._WrappingCheckpointIO"):
        inner = given.checkpoint_io  # type: ignore[attr-defined]
        if _is_plain(inner):
            given._checkpoint_io = WholeCheckpoints(inner)  # type: ignore[attr-defined]  # its setter takes none once it has one
        given = inner


def local_path(path: _Path) -> Path | None:
    """Return the path of a checkpoint on this machine; None if it is elsewhere."""
    files, place = url_to_fs(str(path))
    return Path(place) if isinstance(files, LocalFileSystem) else None


def _is_plain(checkpoint_io: object) -> bool:
    kind = type(checkpoint_io)
    return kind.__name__ == "TorchCheckpointIO" and kind.__module__.startswith(
        ("lightning.fabric.", "lightning_fabric.")
    )


def _lead_on(gone: Path, newest: Path) -> None:
    """Point links to a checkpoint that is about to go to the newest one: ``ModelCheckpoint(save_last="link")`` is later."""
    if newest.parent != gone.parent or newest == gone or not newest.is_file():
        return
    for link in gone.parent.iterdir():
        if link.is_symlink() and Path(os.path.realpath(link)) == Path(os.path.realpath(gone)):
            beside = link.with_name(f".{link.name}.link")
            beside.unlink(missing_ok=True)
            beside.symlink_to(newest.name)
            beside.replace(link)
