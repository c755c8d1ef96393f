"""Reads a plan's entries: students, teachers and methods."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lit_distill.cli.config_files import find_configs
from lit_distill.cli.methods import method_configs
from lit_distill.compare.plan import Layers, PlannedMethod, PlannedStudent, PlannedTeacher, with_weights
from lit_distill.compare.reader import Reader
from lit_distill.compare.results import CONTROL

METHOD_EPOCHS = 30  # those of configs/methods/base.yaml, which the schedules in the folder are made for
_STUDENT_KEYS = ("network", "layers")
_TEACHER_KEYS = ("network", "checkpoint", "train", "options", "seed", "layers", "trained")
_METHOD_KEYS = (
    *("name", "config", "model", "scheme", "chain", "options", "weights", "layers", "epochs"),
    *("students", "teachers", "score"),
)
_KINDS: dict[str, Literal["method", "scheme", "chain"]] = {
    "config": "method",
    "model": "method",
    "scheme": "scheme",
    "chain": "chain",
}
_NAME = re.compile(r"[^\s/\\][^/\\\n]*")


def read_students(read: Reader, value: Any) -> dict[str, PlannedStudent]:
    """Read the students."""
    found = {}
    for name, entry in _named(read, value, "student").items():
        if isinstance(entry, Mapping) and "class_path" not in entry:
            read.keys(entry, _STUDENT_KEYS, f"student {name!r}")
            network, layers = entry.get("network"), _own_layers(read, entry, f"student {name!r}")
        else:
            network, layers = entry, None
        found[name] = PlannedStudent(name, read.network(network, f"student {name!r}"), layers)
    return found


def read_teachers(read: Reader, value: Any, folder: Path) -> dict[str, PlannedTeacher]:
    """Read the teachers; those without a checkpoint leave one in the folder."""
    return {name: _teacher(read, name, entry, folder) for name, entry in _named(read, value, "teacher", 0).items()}


def _teacher(read: Reader, name: str, entry: Any, folder: Path) -> PlannedTeacher:
    owner = f"teacher {name!r}"
    if not isinstance(entry, Mapping) or "class_path" in entry:
        entry = {"network": entry, "trained": _loads(entry)}
    read.keys(entry, _TEACHER_KEYS, owner)
    train = () if entry.get("train") is True else read.files(entry.get("train"), f"{owner}: train")
    trains = bool(train) or entry.get("train") is True
    given, network = entry.get("checkpoint"), entry.get("network")
    if not trains and given is None and not entry.get("trained"):
        raise read.error(
            f"{owner} is a network without weights. Give 'checkpoint: FILE', or 'train: CONFIG' to train it first "
            "('train: true' as the students), or 'trained: true' if its class loads them."
        )
    if network is None and not train:
        raise read.error(f"{owner} names no network.")
    checkpoint = Path(given) if given is not None else folder / "teachers" / f"{name}.ckpt" if trains else None
    if checkpoint is not None and not trains and not checkpoint.is_file():
        raise read.error(f"{owner}: there is no checkpoint {checkpoint} (looked in {Path.cwd()}).")
    return PlannedTeacher(
        name,
        None if network is None else read.network(network, owner),
        checkpoint,
        train if train else ("",) if trains else (),
        read.mapping(entry.get("options"), f"{owner}: options"),
        entry.get("seed", 0),
        _own_layers(read, entry, owner),
    )


def _loads(entry: Any) -> bool:
    return isinstance(entry, Mapping) and str(entry["class_path"]).rpartition(".")[2] == "load"


def _own_layers(read: Reader, entry: Mapping[str, Any], owner: str) -> Layers | None:
    return read.layers(entry["layers"], f"{owner}: layers") if "layers" in entry else None


def _named(read: Reader, value: Any, kind: str, least: int = 1) -> dict[str, Any]:
    """Return entries by name, of a mapping or of a list of bare classes."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = {one.rpartition(".")[2]: one for one in value}
    if value is None and not least:
        return {}
    if not isinstance(value, Mapping) or len(value) < least:
        raise read.error(f"there are no {kind}s; write '{kind}s:' with a line for each, name: network.")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise read.error(
                f"{name!r} cannot name a {kind}: files are named so. Use letters, digits, '_', '-' and '.'."
            )
    return dict(value)


def read_methods(
    read: Reader, value: Any, weights: Any, students: Mapping[str, Any], teachers: Mapping[str, Any]
) -> dict[str, PlannedMethod]:
    """Read the methods; ``all`` stands for all that come with the package."""
    shipped = {path.stem: path for path in method_configs()}
    entries = list(shipped) if value == "all" else value
    if not isinstance(entries, list) or not entries:
        raise read.error("there are no methods; write for example 'methods: [kd, dkd]', or 'methods: all'.")
    found: dict[str, PlannedMethod] = {}
    for entry in entries:
        if entry == CONTROL:  # it is there anyway
            continue
        for method in _methods(read, entry, weights, shipped):
            if method.name in found or method.name == CONTROL:
                raise read.error(f"two methods are named {method.name!r}.")
            for kind, names, known in (("student", method.students, students), ("teacher", method.teachers, teachers)):
                for name in names:
                    read.known(name, known, f"{kind} (of method {method.name!r})")
            if method.taught and not teachers:
                raise read.error(f"method {method.name!r} needs a teacher; write 'teachers:' with a line for each.")
            found[method.name] = replace(method, optional=value == "all")
    return found


def _methods(read: Reader, entry: Any, weights: Any, shipped: Mapping[str, Path]) -> list[PlannedMethod]:
    """Return what an entry asks for: a method, or one with each of several weights."""
    method = _method(read, entry, shipped)
    owner, given = "weights", ("auto" if method.shipped else "configured") if weights is None else weights
    if isinstance(entry, Mapping) and "weights" in entry:
        owner, given = f"method {method.name!r}: weights", entry["weights"]
    values = given if isinstance(given, list) else [given]
    scales = [one for one in values if isinstance(one, (int, float)) and not isinstance(one, bool)]
    words = [read.one_of(one, ("auto", "configured"), owner) for one in values if one not in scales]
    if not values or len(set(values)) < len(values) or any(not 0 < one < math.inf for one in scales):
        raise read.error(f"{owner} must be auto, configured or multiples above 0, each once; they are {given!r}.")
    if scales and "auto" not in words:
        raise read.error(
            f"{owner}: {scales[0]!r} multiplies what a run with 'auto' finds; write [auto, {scales[0]!r}]. A weight of its "
            "own is one of the method's 'options' or of its 'model'."
        )
    if len(values) == 1 or method.kind != "method":
        return [replace(method, weights=words[0])]
    entry = method.name
    return [
        replace(method, name=with_weights(entry, one), entry=entry, weights=word, scale=scale)
        for one, word, scale in [*((w, w, None) for w in words), *((s, "auto", s) for s in scales)]
    ]


def _method(read: Reader, entry: Any, shipped: Mapping[str, Path]) -> PlannedMethod:
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not _NAME.fullmatch(entry["name"]):
        raise read.error(
            f"a method is a name, as of a file in configs/methods, or {{name: mine, config: FILE}}; not {entry!r}."
        )
    name, owner = entry["name"], f"method {entry['name']!r}"
    read.keys(entry, _METHOD_KEYS, owner)
    kinds = [key for key in _KINDS if key in entry]
    if len(kinds) > 1:
        raise read.error(f"{owner} has {' and '.join(kinds)}; one of them says what it is.")
    ours, key = not kinds, kinds[0] if kinds else ""
    own_model = read.mapping(entry.get("model"), f"{owner}: model")
    files = () if key in ("", "model") else read.files(entry[key], owner)
    options = read.mapping(entry.get("options"), f"{owner}: options")
    made_for = read.count(entry["epochs"], f"{owner}: epochs") if "epochs" in entry else METHOD_EPOCHS if ours else None
    kind = _KINDS.get(key, "method")
    return PlannedMethod(
        name,
        kind,
        (str(shipped[read.known(name, shipped, "method")]),) if ours else files,
        own_model,
        options,
        layers=_own_layers(read, entry, owner),
        epochs=made_for,
        students=read.names(entry.get("students"), f"{owner}: students"),
        teachers=read.names(entry.get("teachers"), f"{owner}: teachers"),
        taught=kind == "method" or "teachers" in entry or _asks_for_teacher(files, options),
        figure=entry.get("score"),
        shipped=ours,
    )


def _asks_for_teacher(files: Sequence[str], options: Mapping[str, Any]) -> bool:
    return "{teacher}" in str(options) or any("{teacher}" in Path(file).read_text() for file in find_configs(files))
