"""Writes the configs that two names and a folder stand for, each an ordinary one of ``lit-distill fit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_distill.by_name.networks import Network, Pixels, as_config
from lit_distill.by_name.recipe import Recipe, TrainingSettings
from lit_distill.by_name.request import Request
from lit_distill.by_name.teaching import Decision
from lit_distill.data.folder_facts import FolderFacts
from lit_distill.files.whole_file import write_whole

TEACHER, CONTROL, STUDENT = "teacher", "no_teacher", "student"  # the links, in their order
_CHECKPOINT = "last.ckpt"
_SMALL = 64  # images up to this size are shifted, as small data sets' recipes do; larger ones are cropped
_IN_MEMORY = 2**29  # bytes of decoded images up to which they are kept in memory
_LOG_EVERY = 50


@dataclass(frozen=True)
class NamedSetup:
    """All that the configs are made of."""

    request: Request
    facts: FolderFacts
    folder: Path
    student: Network
    teacher: Network
    pixels: Pixels
    decision: Decision
    recipe: Recipe

    @property
    def classes(self) -> int:
        """The number of the folder's classes."""
        return len(self.facts.classes)

    @property
    def trained_teacher(self) -> Path | None:
        """The checkpoint of the teacher's training; None if it is not trained."""
        return None if self.decision.training == "none" else self.folder / TEACHER / _CHECKPOINT


def link_configs(setup: NamedSetup) -> dict[str, dict[str, Any]]:
    """Return the config of each link, in the order in which they run."""
    links: dict[str, dict[str, Any]] = {}
    if setup.recipe.teacher is not None:
        model = _supervised(as_config(setup.teacher, setup.pixels, setup.classes))
        links[TEACHER] = _config(setup, TEACHER, model, setup.recipe.teacher)
        if setup.decision.training == "head":
            head = f"model.{setup.teacher.head}" if setup.pixels.adaptation(setup.teacher) else setup.teacher.head
            links[TEACHER]["trainer"]["callbacks"] += [{"class_path": "TrainOnly", "init_args": {"layers": [head]}}]
    student = as_config(setup.student, setup.pixels, setup.classes)
    if setup.request.control:
        links[CONTROL] = _config(setup, CONTROL, _supervised(student), setup.recipe.student)
    checkpoint = None if setup.trained_teacher is None else str(setup.trained_teacher)
    teacher = as_config(setup.teacher, setup.pixels, setup.classes, checkpoint)
    distilled = {"class_path": "LogitDistillation", "init_args": {"student": student, "teacher": teacher}}
    links[STUDENT] = _config(setup, STUDENT, distilled, setup.recipe.student)
    return links


def _supervised(model: Any) -> dict[str, Any]:
    return {"class_path": "SupervisedModule", "init_args": {"model": model}}


def _config(setup: NamedSetup, link: str, model: dict[str, Any], schedule: TrainingSettings) -> dict[str, Any]:
    config: dict[str, Any] = {
        "seed_everything": setup.request.seed,
        "trainer": {
            "max_epochs": schedule.epochs,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": min(_LOG_EVERY, setup.recipe.steps(setup.facts)),
            "enable_model_summary": False,
            "callbacks": [{"class_path": "SeedFit", "init_args": {"seed": setup.request.seed}}],
            "default_root_dir": str(setup.folder / link),
        },
        "model": model,
        "data": _data(setup),
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": schedule.rate}},
        "lr_scheduler": {"class_path": "CosineAnnealingLR", "init_args": {"T_max": schedule.epochs}},
    }
    for path, value in setup.request.options.items():
        if _concerns(path, link):
            _set(config, path.split("."), value)
    return config


def _concerns(path: str, link: str) -> bool:
    """Return True if an option is for a link: the model's for the distillation, the optimizer's for the student's."""
    section = path.partition(".")[0]
    return section in ("trainer", "data") or link == STUDENT or (section != "model" and link == CONTROL)


def _set(config: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value of a config by its path, which leaves out the ``init_args`` of classes."""
    place = config.setdefault("init_args", {}) if "class_path" in config else config
    first, *rest = path
    if first in ("class_path", "init_args"):
        place = config
    if not rest:
        place[first] = value
    else:
        _set(place.setdefault(first, {}), rest, value)


def _data(setup: NamedSetup) -> dict[str, Any]:
    side = setup.pixels.size[0]
    own_size = setup.facts.size == setup.pixels.size
    stored = sum(setup.facts.counts.values()) * side * side * 3 <= _IN_MEMORY
    options: dict[str, Any] = {
        "root": str(setup.facts.root),
        "batch_size": setup.recipe.batch_size,
        "augment": _augmentation(side, stored or own_size),
        "mean": list(setup.pixels.mean),
        "std": list(setup.pixels.std),
    }
    options |= {} if own_size else {"image_size": side}
    options |= {"in_memory": True} if stored else {}
    return {"class_path": "ImageFolder", "init_args": options}


def _augmentation(side: int, at_size: bool) -> list[Any]:
    """Return random shifts or crops, and flips; of images that are at their size already, or are brought to it later."""
    if side <= _SMALL:
        moved = {"class_path": "RandomCrop", "init_args": {"size": side, "padding": side // 8}}
    else:
        size = side if at_size else round(side * 8 / 7)  # of which ImageFolder cuts the middle out
        moved = {"class_path": "RandomResizedCrop", "init_args": {"size": size, "scale": [0.5, 1.0], "antialias": True}}
    flip = {"class_path": "RandomHorizontalFlip"}
    return [{**one, "class_path": f"torchvision.transforms.v2.{one['class_path']}"} for one in (moved, flip)]


def chain_of(setup: NamedSetup, links: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chain of the links, which ``lit-distill chain`` runs as well."""
    found: dict[str, Any] = {name: {"config": str(setup.folder / f"{name}.yaml")} for name in links}
    if TEACHER in links:
        within = "init_args.model.init_args" if setup.pixels.adaptation(setup.teacher) else "init_args"
        found[STUDENT][f"model.teacher.{within}.checkpoint"] = f"{{{TEACHER}}}"
    return {"folder": str(setup.folder), "links": found}


def write_configs(setup: NamedSetup) -> None:
    """Write the config of each link, and of their chain, into the folder."""
    links = link_configs(setup)
    setup.folder.mkdir(parents=True, exist_ok=True)
    for name, config in links.items():
        command = f"# lit-distill fit --config {setup.folder / name}.yaml\n"
        _write(setup.folder / f"{name}.yaml", command, config)
    command = f"# lit-distill chain --config {setup.folder / 'chain.yaml'}\n"
    _write(setup.folder / "chain.yaml", command, chain_of(setup, links))


def _write(path: Path, heading: str, content: Any) -> None:
    write_whole(path, (heading + yaml.safe_dump(content, sort_keys=False, width=120)).encode())
