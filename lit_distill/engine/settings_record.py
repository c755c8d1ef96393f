"""The settings that a checkpoint records, and the differences of a run that continues from it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lit_distill.criteria import Criterion
from lit_distill.engine.scheduling import WEIGHT
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.teachers import Teacher
from lit_distill.teachers.digest import network_digest
from lit_distill.utils.names import unprefixed
from lit_distill.utils.nested import differing
from lit_distill.utils.notices import warn
from lit_distill.utils.plain import as_plain

_MADE = "the checkpoint was made with"
_OWN = "(this run's value is used)"
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120


def class_name(thing: object) -> str:
    """Return the import path of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def describe_settings(criteria: WeightedCriteria, task: str | None = None) -> dict[str, Any]:
    """Return the settings of a distillation, in plain types and without scheduled values."""
    scheduled = criteria.schedules
    settings: dict[str, Any] = {"task": task} if task is not None else {}
    settings["weights"] = {
        name: weight for name, weight in criteria.given_weights.items() if f"{name}.{WEIGHT}" not in scheduled
    }
    settings["criteria"] = {
        name: {key: value for key, value in _of_criterion(one).items() if f"{name}.{key}" not in scheduled}
        for name, one in criteria.criteria().items()
    }
    settings["schedules"] = {key: _of_object(schedule) for key, schedule in scheduled.items()}
    settings["strength"] = criteria.strength
    settings["balance"] = _of_object(criteria.balance) if criteria.balance is not None else None
    return as_plain(settings)  # type: ignore[no-any-return]


def describe_teacher(teacher: Teacher | None) -> dict[str, Any] | None:
    """Return the class of a teacher's network, and the digest of its weights if it is frozen."""
    if teacher is None:
        return None
    kind = class_name(teacher if teacher.network is None and teacher.frozen else teacher.model)
    return {"class": kind, "digest": network_digest(teacher.model) if teacher.frozen else None}


def _of_criterion(criterion: Criterion) -> dict[str, Any]:
    described = _of_object(criterion)
    for side in ("student_layers", "teacher_layers"):
        layers = getattr(criterion, side)
        if layers:
            described[side] = list(layers)
    for name, inner in criterion.named_children():
        if isinstance(inner, Criterion):
            described |= {f"{name}.{key}": value for key, value in _of_criterion(inner).items()}
    return described


def _of_object(thing: object) -> dict[str, Any]:
    """Return an object's class, and its public attributes that are numbers, text or tuples of these."""
    empty = vars(nn.Module())
    found = {key: as_plain(value) for key, value in vars(thing).items() if not key.startswith("_") and key not in empty}
    return {"class": class_name(thing)} | {key: value for key, value in found.items() if _is_setting(value)}


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))


def changes_of_settings(saved: Any, present: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each setting that differs from a checkpoint's (both of ``describe_settings``)."""
    if not isinstance(saved, Mapping) or present is None:
        return []
    lines = []
    for group in ("weights", "schedules"):  # their entries may come and go
        before, now = saved.get(group), present[group]
        if isinstance(before, Mapping):
            lines += _changes({k: before.get(k) for k in now}, now, group)
            lines += [
                f"{group}.{key}: {_MADE} {_shown(before[key])}, and this run has none"
                for key in before
                if key not in now
            ]
    for key in ("task", "criteria", "strength", "balance"):
        if key in saved and key in present:
            lines += _changes({key: saved[key]}, {key: present[key]}, "")
    return lines


def changes_of_teacher(saved: Any, present: Mapping[str, Any] | None) -> list[str]:
    """Return a line if the teacher differs from that of a checkpoint (both of ``describe_teacher``)."""
    if not isinstance(saved, Mapping) or present is None:
        return []
    if saved.get("class") != present["class"]:
        return [f"teacher: {_MADE} a {_shown(saved.get('class'))}, this run has a {_shown(present['class'])} {_OWN}"]
    if saved.get("digest") and present["digest"] and saved["digest"] != present["digest"]:
        return [f"teacher: {_MADE} other weights (and buffers) of the {present['class'].rpartition('.')[2]} {_OWN}"]
    return []


def warn_of_changes(lines: Sequence[str]) -> None:
    """Warn of the differences between a run and the one that it continues."""
    if lines:
        warn("this run differs from the one that it continues:\n  " + "\n  ".join(lines))


def _changes(saved: Mapping[str, Any], present: Mapping[str, Any], path: str) -> list[str]:
    return [
        f"{name}: {_MADE} {_shown(before)}, this run has {_shown(now)} {_OWN}"
        for name, before, now in differing(saved, present, _comparable, path=path)
    ]


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("class"), str):
        return str(value["class"]).rpartition(".")[2]
    return _short.repr(value) if value is not None else "none"


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that a checkpoint's hyperparameters and a config's both have, and that differs."""
    return [
        f"{name.removeprefix('_')}: {_MADE} {_short.repr(before)}, the config says {_short.repr(now)}"
        for name, before, now in differing(saved, asked, _as_written)
    ]


def _as_written(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    return value if isinstance(value, (int, float, list, tuple, type(None))) else unprefixed(str(value))
