"""The default criteria of each module, and checks of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import CLASS_TASKS, TASKS, Task
from lit_distill.criteria import Criterion, HardTarget, LogitMSE, SoftTarget
from lit_distill.criteria.hard_target import LABEL_TASKS
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.soft_target import Standardize
from lit_distill.engine.named_criteria import Weight, check_criteria, check_weights
from lit_distill.utils.arguments import check_choice

DEFAULT_TEMPERATURE = 4.0


def choose(
    criteria: Mapping[str, Criterion] | None,
    weights: Mapping[str, Weight] | None,
    default_criteria: Mapping[str, Criterion],
    default_weights: Mapping[str, float],
) -> tuple[Mapping[str, Criterion], Mapping[str, Weight]]:
    """Return the user's criteria and weights if given, else the defaults."""
    if weights is not None:
        check_weights(weights)
    if criteria is None:
        return default_criteria, {**default_weights, **(weights or {})}
    check_criteria(criteria)
    return criteria, weights or {}


def label_criteria(task: Task) -> dict[str, Criterion]:
    """Return the default loss on labels; nothing for a task without labels."""
    return {"hard": HardTarget(task=task)} if task in LABEL_TASKS else {}


def logit_criteria(
    owner: str, task: Task, temperature: float, standardize: Standardize = False
) -> tuple[dict[str, Criterion], dict[str, float]]:
    """Return the default criteria on labels and logits, ``hard`` and ``soft``, and their weights.

    Without labels there is only ``soft``, with weight 1.
    """
    check_choice("task", task, TASKS)
    if task == "none":
        raise ValueError(f"{owner} has no default criteria for the task 'none'; give criteria and weights.")
    if task not in CLASS_TASKS:
        refuse_temperature(task, temperature)
        if standardize not in (AUTO, False):
            raise ValueError(
                f"standardize applies to soft targets of classes, and the task {task!r} has none; leave it out."
            )
    soft = SoftTarget(temperature, task=task, standardize=standardize) if task in CLASS_TASKS else LogitMSE()
    criteria = {**label_criteria(task), "soft": soft}
    return criteria, {"hard": 0.1, "soft": 0.9} if "hard" in criteria else {"soft": 1.0}


def refuse_temperature(task: Task, temperature: float) -> None:
    """Refuse a temperature for a task without soft targets of classes."""
    if temperature != DEFAULT_TEMPERATURE:
        raise ValueError(
            f"temperature {temperature:g} applies to soft targets of classes, and the task {task!r} has none; leave it out."
        )


def refuse_task(owner: str, task: Task, known: Sequence[Task], reason: str) -> None:
    """Refuse a task that a module does not support."""
    check_choice("task", task, TASKS)
    if task not in known:
        raise ValueError(
            f"{owner} does not take the task {task!r}: {reason}. It takes {', '.join(map(repr, known))}; for others use "
            "DistillationModule with criteria of your own."
        )


def refuse_unused(
    given: Mapping[str, object], criteria: Mapping[str, Criterion] | None, temperature: float = DEFAULT_TEMPERATURE
) -> None:
    """Refuse settings of the default criteria if the user's own criteria replace these."""
    unused = [name for name, value in given.items() if value is not None]
    unused += ["temperature"] * (temperature != DEFAULT_TEMPERATURE)
    if criteria is not None and unused:
        raise ValueError(
            f"{' and '.join(unused)} belong{'s' * (len(unused) == 1)} to the default criteria, and criteria were given "
            "instead; set them in the criteria themselves."
        )


def _reading_layers(criteria: Mapping[str, Criterion]) -> list[str]:
    return [name for name, criterion in criteria.items() if criterion.student_layers or criterion.teacher_layers]


def _comparing_logits(criteria: Mapping[str, Criterion]) -> list[str]:
    return [name for name, criterion in criteria.items() if criterion.compares_logits]


def refuse_layers(owner: str, criteria: Mapping[str, Criterion]) -> None:
    """Refuse criteria that read layers."""
    _refuse_any(owner, _reading_layers(criteria), "logits", "reads layers")


def refuse_logits(owner: str, criteria: Mapping[str, Criterion]) -> None:
    """Refuse criteria that compare logits."""
    _refuse_any(owner, _comparing_logits(criteria), "layers", "compares logits")


def _refuse_any(owner: str, found: list[str], compared: str, does: str) -> None:
    if found:
        names = ", ".join(map(repr, found))
        raise ValueError(f"{owner} compares only {compared}, and {names} {does}; use CombinedDistillation.")


def need_layers(owner: str, criteria: Mapping[str, Criterion]) -> None:
    """Require a criterion that reads layers."""
    if not _reading_layers(criteria):
        _refuse_lack(owner, criteria, "reads layers (Hint, AttentionTransfer)", "LogitDistillation")


def need_logits(owner: str, criteria: Mapping[str, Criterion]) -> None:
    """Require a criterion that compares logits."""
    if not _comparing_logits(criteria):
        _refuse_lack(owner, criteria, "compares logits (SoftTarget)", "FeatureDistillation")


def _refuse_lack(owner: str, criteria: Mapping[str, Criterion], does: str, other: str) -> None:
    given = ", ".join(map(repr, criteria))
    raise ValueError(f"{owner} needs a criterion that {does}, and was given {given}; use {other}.")


def refuse_for_heads(format_: BatchFormat, options: Sequence[str], why: str) -> None:
    """Refuse options of the batch format that need a network with one output."""
    for option in options:
        if getattr(format_, option):
            raise ValueError(f"BatchFormat({option}=True) does nothing here, as {why}; leave it out.")
