"""A link of a chain: its command, its checkpoint, and the record of its progress."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_distill.files.saving import save_whole
from lit_distill.files.whole_file import write_whole
from lit_distill.utils.names import unprefixed

_CALLBACK = "lit_distill.chain.LinkCheckpoint"
_CHECKPOINT = "last.ckpt"
_RECORD = "link.json"


class LinkCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of every epoch, and marks the link's record once the fit is finished.

    Only the fit knows: its process can end with 0 and be unfinished, and be killed between its last checkpoint and its end.
    A link that was killed there finishes at once when it goes on.

    Args:
        folder: Where to write them.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._stopped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save_whole(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self._stopped}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stopped = trainer.should_stop  # by EarlyStopping or a Timer, which a Trainer forgets
        trainer.save_checkpoint(self.folder / _CHECKPOINT, weights_only=False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        trainer.should_stop = trainer.should_stop or state.get("stopped", False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not _is_finished(trainer):
            return
        record = Record.read(self.folder)  # none where the link's command is run by hand
        if record is not None and (self.folder / _CHECKPOINT).is_file():
            replace(record, finished=True).write(self.folder)


def _is_finished(trainer: Trainer) -> bool:
    """Return True if a fit has reached its epochs or steps, or was stopped by EarlyStopping or ``max_time``."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    reached = 0 <= steps <= trainer.global_step or (epochs is not None and 0 <= epochs <= trainer.current_epoch)
    return reached or trainer.should_stop


@dataclass(frozen=True)
class Link:
    """A fit of a chain.

    Attributes:
        name: Of the link, and of its folder.
        folder: Where it logs, and leaves its checkpoint and its record.
        configs: The files that it starts from, the later over the earlier.
        options: Its own values by option path, as after ``lit-distill fit --``.
        teachers: The earlier links whose checkpoints its options name.
    """

    name: str
    folder: Path
    configs: tuple[str, ...]
    options: Mapping[str, Any]
    teachers: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that the link leaves, which later links load networks from."""
        return self.folder / _CHECKPOINT

    def forget(self) -> None:
        """Remove the record, so that the link is made again."""
        (self.folder / _RECORD).unlink(missing_ok=True)

    def settings(self, further: Sequence[str] = ()) -> list[str]:
        """Return the configs and options of the fit as words of a command line, ``further`` ones last, so that they win."""
        configs = [word for config in self.configs for word in ("--config", config)]
        return [*configs, *(f"--{path}={as_word(value)}" for path, value in self.options.items()), *further]

    def command(self, further: Sequence[str] = (), resume: bool = False) -> list[str]:
        """Return the words after ``lit-distill`` that run the link.

        Args:
            further: Words that come after the link's own, and so win.
            resume: Go on from the link's checkpoint.
        """
        place = [f"--trainer.default_root_dir={self.folder}"]
        place += [f"--trainer.callbacks+={_CALLBACK}", f"--trainer.callbacks.folder={self.folder}"]
        return ["fit", *self.settings(further), *place, *([f"--ckpt_path={self.checkpoint}"] if resume else [])]


def as_word(value: Any) -> str:
    """Return a value as the command line reads it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) and _is_text(value) else json.dumps(value)


def _is_text(value: str) -> bool:
    """Return True if the command line reads these characters as text, not as a number or a list."""
    try:
        return isinstance(yaml.safe_load(value or "''"), str)
    except yaml.YAMLError:  # "*stage3" is no YAML, and so it is text
        return True


@dataclass(frozen=True)
class Record:
    """The progress of a link, kept in its folder.

    Attributes:
        run: Marks this making of the link: one made again has another.
        finished: The fit ended, and its checkpoint is that of the end.
        settings: Every value of the fit, by dotted path.
        teachers: The ``run`` of every link that taught this one.
    """

    run: str
    finished: bool
    settings: Mapping[str, Any]
    teachers: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Return the folder's record, or None if it has none."""
        path = folder / _RECORD
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Write the record, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _RECORD, json.dumps(asdict(self), indent=1).encode())

    def changes(self, settings: Mapping[str, Any], teachers: Mapping[str, str]) -> list[str]:
        """Return a line for each setting that differs from when the link was made.

        Args:
            settings: Every value of the fit that is asked for.
            teachers: The ``run`` of every link that would teach it.
        """
        paths = dict.fromkeys([*self.settings, *settings])
        lines = [
            f"{path}: {_shown(self.settings, path)}, now {_shown(settings, path)}"
            for path in paths
            if _comparable(self.settings, path) != _comparable(settings, path)
        ]
        return lines + [
            f"its teacher {name!r} has been made again since"
            for name, run in teachers.items()
            if self.teachers.get(name) != run
        ]


def _comparable(settings: Mapping[str, Any], path: str) -> str:
    value = settings.get(path)
    return unprefixed(value) if isinstance(value, str) else _shown(settings, path)


def _shown(settings: Mapping[str, Any], path: str) -> str:
    return json.dumps(settings[path]) if path in settings else "not given"


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return a nested config's values by dotted path; entries of lists by their number."""
    entries = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(entries, Mapping) or not entries:
        return {path: value}
    found: dict[str, Any] = {}
    for key, entry in entries.items():
        found |= flatten(entry, f"{path}.{key}" if path else str(key))
    return found
