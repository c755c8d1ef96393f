"""Keeps what was found out about a setup, so that the same command, given again, need not find it out again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_distill.by_name.configs import NamedSetup
from lit_distill.by_name.networks import Network, shared_pixels
from lit_distill.by_name.recipe import Recipe, TrainingSettings
from lit_distill.by_name.request import Request
from lit_distill.by_name.teaching import Decision
from lit_distill.chain import Record
from lit_distill.data.folder_facts import FolderFacts
from lit_distill.files.whole_file import write_whole
from lit_distill.models.named import read_name
from lit_distill.models.sources.base import Described, numbers, pair
from lit_distill.utils.nested import differing

_FILE = "setup.json"


def keep(setup: NamedSetup) -> None:
    """Write a setup into its folder."""
    recipe = setup.recipe
    content = {
        "request": setup.request.as_json(),
        "images": _images(setup.facts),
        "networks": {"student": _as_json(setup.student), "teacher": _as_json(setup.teacher)},
        "teacher": asdict(setup.decision),
        "recipe": asdict(recipe),
    }
    write_whole(setup.folder / _FILE, json.dumps(content, indent=1).encode())


def recall(request: Request, facts: FolderFacts, folder: Path, again: bool) -> NamedSetup | None:
    """Return the setup that a folder was made for; None if nothing was trained there, or is to be made again.

    Raises:
        ValueError: It was made for another request, or the images have changed, and it is not to be made again.
    """
    path = folder / _FILE
    if not path.is_file() or not any(Record.read(one) for one in folder.iterdir() if one.is_dir()):
        return None
    content = json.loads(path.read_text())
    changes = _changes("", content["request"], request.as_json()) + _changes(
        "images: ", content["images"], _images(facts)
    )
    if changes and not again:
        raise ValueError(
            f"{folder} was made with other settings than those asked for now:\n  "
            + "\n  ".join(changes)
            + "\nTo make again what they change: --again. To keep it: another --folder."
        )
    return None if changes else _setup(content, request, facts, folder)


def images_changed(facts: FolderFacts, folder: Path) -> bool:
    """Return True if a folder was made with other images."""
    path = folder / _FILE
    return path.is_file() and json.loads(path.read_text())["images"] != _images(facts)


def _setup(content: Mapping[str, Any], request: Request, facts: FolderFacts, folder: Path) -> NamedSetup:
    student, teacher = (
        _network(owner, getattr(request, owner), content["networks"][owner]) for owner in ("student", "teacher")
    )
    recipe = content["recipe"]
    of_teacher = None if recipe["teacher"] is None else TrainingSettings(**recipe["teacher"])
    chosen = Recipe(recipe["batch_size"], TrainingSettings(**recipe["student"]), of_teacher)
    pixels = shared_pixels(student, teacher)
    return NamedSetup(request, facts, folder, student, teacher, pixels, Decision(**content["teacher"]), chosen)


def _images(facts: FolderFacts) -> dict[str, Any]:
    return {"classes": list(facts.classes), "counts": dict(facts.counts), "sizes": [list(one) for one in facts.sizes]}


def _as_json(network: Network) -> dict[str, Any]:
    return {
        "described": asdict(network.described),
        "size": network.size,
        "classes": network.classes,
        "head": network.head,
    }


def _network(owner: str, text: str, content: Mapping[str, Any]) -> Network:
    said = content["described"]
    described = Described(pair(said["size"]), numbers(said["mean"]), numbers(said["std"]), said["where"])
    height, width = content["size"]
    return Network(read_name(owner, text), described, (height, width), content["classes"], content["head"])


def _changes(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{what}{key}: {json.dumps(one)}, now {json.dumps(other)}"
        for key, one, other in differing(before, now, union=True)
    ]
