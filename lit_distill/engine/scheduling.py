"""The settings of criteria that schedules can set, and the ranges of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lit_distill.criteria import Criterion
from lit_distill.schedules import Schedule
from lit_distill.utils.arguments import check_named, check_object
from lit_distill.utils.names import nearest

WEIGHT = "weight"
_GIVEN = "_settings_as_given"


def check_schedules(criteria: Mapping[str, Criterion], schedules: Mapping[str, Schedule]) -> None:
    """Refuse schedules of unknown settings, and schedules whose values leave the setting's range."""
    check_named("schedules", schedules, "{'soft.weight': Linear(0, 1, until=10)}")
    known = [key for name, criterion in criteria.items() for key in settings(name, criterion)]
    for key, schedule in schedules.items():
        remedy = "give a lit_distill.schedules.Schedule: Linear(0, 1, until=10)."
        check_object(f"the schedule of {key!r}", schedule, Schedule, remedy)
        if key not in known:
            raise ValueError(
                f"a schedule for {key!r}, which cannot be scheduled; these can: {', '.join(known)}."
                f"{nearest(key, known)}"
            )
        for value in schedule.bounds() or ():
            check_value(key, value, f"{value:g}")


def settings(name: str, criterion: Criterion) -> list[str]:
    """List what can be scheduled of a criterion: its weight, and the numbers that it and criteria inside it hold."""
    found = [f"{name}.{WEIGHT}"]
    for path, module in criterion.named_modules(prefix=name):
        if isinstance(module, Criterion):
            # A criterion that wraps another has the inner one's temperature as a property.
            numbers = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            numbers["temperature"] = module.temperature
            found += [f"{path}.{key}" for key, value in numbers.items() if _is_number(value)]
    return list(dict.fromkeys(found))


def keep_settings(criteria: Mapping[str, Criterion], schedules: Mapping[str, Schedule]) -> None:
    """Save on each criterion the user's values of the settings that schedules will set."""
    for key in schedules:
        if not sets_weight(key):
            owner, _, setting = key.rpartition(".")
            name, _, path = owner.partition(".")
            module = criteria[name].get_submodule(path)
            vars(module).setdefault(_GIVEN, {}).setdefault(setting, getattr(module, setting))


def forget_schedules(criteria: Mapping[str, Criterion]) -> None:
    """Restore the user's settings of criteria that another module's schedules have changed."""
    for criterion in criteria.values():
        for module in criterion.modules():
            for setting, value in vars(module).pop(_GIVEN, {}).items():
                setattr(module, setting, value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def sets_weight(key: str) -> bool:
    """Return True if a schedule's key is a criterion's weight in the sum."""
    return key.endswith(f".{WEIGHT}") and key.count(".") == 1


def can_rise(schedule: Schedule) -> bool:
    """Return True if a weight's schedule may be above 0 at some time."""
    bounds = schedule.bounds()
    return bounds is None or bounds[1] > 0


def check_value(key: str, value: float, found: str) -> None:
    """Refuse a scheduled value out of its range: weights are at least 0, temperatures above 0."""
    if sets_weight(key) and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"the schedule of {key!r} gives {found}; a weight must be finite and at least 0.")
    if key.endswith("temperature") and not (math.isfinite(value) and value > 0):
        raise ValueError(f"the schedule of {key!r} gives {found}; a temperature must be finite and above 0.")
    if not math.isfinite(value):
        raise ValueError(f"the schedule of {key!r} gives {found}; the value must be finite.")
