"""The sections that all runs start from, and schedules that keep their share of another number of epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_distill.cli.config_files import find_configs, read_config
from lit_distill.compare.reader import Reader

_EPOCHS = ("T_max", "T_0", "step_size", "total_iters", "milestones")  # what PyTorch's schedulers count in epochs
_SHARES = ("until", "begin")  # of schedules of criteria


def base_sections(read: Reader, config: str) -> dict[str, Any]:
    """Return a config's sections but its model."""
    return {key: value for key, value in whole_config(read, config).items() if key not in ("model", "ckpt_path")}


def whole_config(read: Reader, config: str) -> dict[str, Any]:
    """Return a config's sections, with the file of its callbacks by its full path."""
    file = Path(find_configs([config])[0])
    if not file.is_file():
        raise read.error(f"there is no config {config} (looked in {Path.cwd()}).")
    content = read_config(file)
    if not isinstance(content, Mapping):
        raise read.error(f"{config} holds {content!r}; a config is a mapping with model, data and trainer.")
    sections = dict(content)
    trainer = sections.get("trainer")
    if isinstance(trainer, Mapping) and isinstance(trainer.get("callbacks"), str):
        sections["trainer"] = {**trainer, "callbacks": str((file.parent / trainer["callbacks"]).resolve())}
    return sections


def planned_epochs(sections: Sequence[Mapping[str, Any]]) -> Any:
    """Return the number of epochs that sections ask for; None if they ask for none."""
    trainers = [section["trainer"] for section in sections if isinstance(section.get("trainer"), Mapping)]
    return next((trainer["max_epochs"] for trainer in reversed(trainers) if "max_epochs" in trainer), None)


def rescaled_scheduler(section: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return a section whose learning-rate scheduler takes the same share of a training of other length."""
    scheduler = section.get("lr_scheduler")
    if share == 1 or not isinstance(scheduler, Mapping):
        return dict(section)
    holder = scheduler.get("init_args", scheduler)
    changed = {key: _counted(value, share) if key in _EPOCHS else value for key, value in holder.items()}
    return {**section, "lr_scheduler": {**scheduler, "init_args": changed} if "init_args" in scheduler else changed}


def in_proportion(value: Any, share: float, key: str = "") -> Any:
    """Return a module's settings whose schedules take the same share of a training of other length."""
    if isinstance(value, Mapping) and key == "changes":
        return {_counted(epoch, share): inner for epoch, inner in value.items()}
    if isinstance(value, Mapping):
        return {name: in_proportion(inner, share, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [in_proportion(inner, share, key) for inner in value]
    return value * share if key in _SHARES and isinstance(value, (int, float)) else value


def _counted(value: Any, share: float) -> Any:
    if isinstance(value, list):
        return [_counted(one, share) for one in value]
    return max(1, round(value * share)) if isinstance(value, (int, float)) else value
