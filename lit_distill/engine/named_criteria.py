"""Checks of the criteria and their weights by name, as the user gave them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final, Literal

from lit_distill.balance import Balance
from lit_distill.criteria import Criterion
from lit_distill.engine.auto_weights import ratio_of
from lit_distill.engine.scheduling import WEIGHT, can_rise
from lit_distill.schedules import Schedule
from lit_distill.utils.arguments import check_named, check_number, check_object
from lit_distill.utils.names import nearest

AUTO: Final = "auto"
Weight = float | Literal["auto"]


def check_criteria(criteria: Mapping[str, Criterion]) -> None:
    """Refuse what is no mapping of names to criteria, or an empty one."""
    check_named("criteria", criteria, "{'soft': SoftTarget()}")
    if not criteria:
        raise ValueError("no criteria; give at least one by name.")
    for name, criterion in criteria.items():
        remedy = "give a lit_distill.criteria.Criterion, such as SoftTarget(); a loss of your own is a subclass of it."
        check_object(f"criterion {name!r}", criterion, Criterion, remedy)
        if "_modules" not in vars(criterion):
            raise TypeError(
                f"criterion {name!r}: {type(criterion).__name__}.__init__ does not call super().__init__(); do so first."
            )


def check_names(names: Iterable[str], taken: Container[str]) -> None:
    """Refuse names that cannot be a key of a checkpoint, or that the module which holds the criteria uses."""
    for name in names:
        if "." in name or "/" in name or not name:
            raise ValueError(f"{name!r} cannot name a criterion; use letters, digits and underscores.")
        if name in taken:
            raise ValueError(f"{name!r} cannot name a criterion: the module that holds them uses it; choose another.")


def check_weights(weights: Mapping[str, Weight]) -> None:
    """Refuse weights that are no mapping."""
    check_named("weights", weights, "{'hard': 0.1, 'soft': 0.9}")


def checked_weights(
    criteria: Mapping[str, Criterion],
    weights: Mapping[str, Weight],
    schedules: Mapping[str, Schedule],
    balance: Balance | None,
) -> tuple[dict[str, float], list[str]]:
    """Return the weights as numbers, and the names of the criteria that were given none: ``auto``, or left out.

    Such a criterion has the ratio that it aims at for a number; one that needs no teacher has 1, and is not found in training.
    A criterion with a scheduled weight needs no other: the schedule holds the weight, or multiplies one that is ``auto``.

    Raises:
        TypeError: The weights are not a mapping, or a weight is not a number.
        ValueError: A weight is out of range, of an unknown criterion, or left out next to a balance; or all weights are 0.
    """
    check_weights(weights)
    for name in weights:
        if name not in criteria:
            raise ValueError(
                f"weight for unknown criterion {name!r}; the criteria are {', '.join(criteria)}.{nearest(name, criteria)}"
            )
    scheduled = {name: schedules[f"{name}.{WEIGHT}"] for name in criteria if f"{name}.{WEIGHT}" in schedules}
    free = [name for name in criteria if _is_auto(weights.get(name, None if name in scheduled else AUTO))]
    if free and balance is not None:
        raise ValueError(
            f"criterion {free[0]!r} has no weight, and {type(balance).__name__} multiplies weights; add it to weights: "
            f"{{{free[0]}: 1.0}}."
        )
    given = {name: weight for name, weight in weights.items() if not _is_auto(weight)}
    checked = {
        name: check_number(f"the weight of criterion {name!r}", weight, least=0) for name, weight in given.items()
    }
    checked |= {name: ratio_of(criteria[name]) if criteria[name].needs_teacher else 1.0 for name in free}
    fixed = any(checked[name] for name in criteria if name not in scheduled)
    if not fixed and not any(map(can_rise, scheduled.values())):
        raise ValueError("every weight is 0: nothing would be trained.")
    return checked, free


def _is_auto(weight: object) -> bool:
    return isinstance(weight, str) and weight == AUTO


def innermost(criterion: Criterion) -> Criterion:
    """Return the criterion that one holds, down to the last; itself if it holds none."""
    while (inner := criterion.wrapped) is not None:
        criterion = inner
    return criterion
