"""Trains the control: the config of a distillation without its teacher, in a fit of its own that can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_distill.chain import plan, run, settings_of
from lit_distill.chain.link import Link
from lit_distill.chain.running import Launch
from lit_distill.files.whole_file import write_whole

_NAME = "no_teacher"
_KEPT = ("task", "optimizer", "lr_scheduler", "batch_format", "fast", "metrics", "lr_interval", "lr_monitor")
_CHAIN = "lit-distill chain: "
HOW_TO_GIVE = "Train the student without a teacher yourself, and give its checkpoint: --control FILE"


def control_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that trains a distillation's student on labels alone.

    Data, epochs, optimizer, schedule and seed stay. Callbacks that write checkpoints go: theirs are the student's.

    Args:
        config: Of ``lit-distill fit``, with every value.

    Raises:
        ValueError: It has no single student and teacher, or its student learns from no labels.
    """
    model = config["model"]
    arguments = model.get("init_args", {})
    kind = str(model["class_path"]).rpartition(".")[2]
    if kind == "MultiTaskDistillation" or arguments.get("student") is None:
        raise ValueError(f"no control can be made of the config of a {kind}. {HOW_TO_GIVE}.")
    if arguments.get("task", "multiclass") in ("embedding", "none"):
        raise ValueError(
            f"no control can be trained for the task {arguments['task']!r}, which has no loss on labels. {HOW_TO_GIVE}."
        )
    kept = {name: arguments[name] for name in _KEPT if arguments.get(name) is not None}
    module = {"class_path": "SupervisedModule", "init_args": {"model": arguments["student"], **kept}}
    trainer = {**config.get("trainer", {}), "logger": None, "enable_checkpointing": None}
    trainer["callbacks"] = [one for one in _listed(trainer.get("callbacks")) if not _saves(one)]
    return {**{key: value for key, value in config.items() if key != "ckpt_path"}, "trainer": trainer, "model": module}


def train_control(config: Mapping[str, Any], folder: Path, again: bool = False, launch: Launch | None = None) -> Path:
    """Train the control of a config, or go on where that was stopped, or find that it is there.

    Args:
        config: Of the distillation, with every value.
        folder: Of the report.
        again: Train one again that was trained with other settings.
        launch: Runs the words after ``lit-distill`` and returns the exit code; in a process of its own if None.

    Returns:
        The checkpoint of its last epoch.

    Raises:
        ValueError: No control can be made of the config, or one was made with other settings.
        SystemExit: The training failed or was interrupted; the same command goes on.
    """
    content = control_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_NAME}.yaml"
    link = Link(_NAME, folder / _NAME, (str(path),), {}, ())
    write_whole(path, yaml.safe_dump(content, sort_keys=False, width=120).encode())
    try:
        steps = plan([link], {_NAME: settings_of(link)}, again)
    except SystemExit as refused:
        raise ValueError(f"{str(refused.code).removeprefix(_CHAIN)} {HOW_TO_GIVE}.") from refused
    if steps[0].action == "skip":
        print(f"control: {link.checkpoint}, trained before", flush=True)
        return link.checkpoint
    print("control: the same config without its teacher is trained first", flush=True)
    run(steps, launch=launch, verb="report")
    return link.checkpoint


def _listed(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []


def _saves(callback: Any) -> bool:
    path = callback.get("class_path") if isinstance(callback, Mapping) else callback
    return str(path).rpartition(".")[2] in ("ModelCheckpoint", "OnExceptionCheckpoint", "LinkCheckpoint")
