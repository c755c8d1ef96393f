"""The default criteria of ``Distill``, and checks of the user's own."""

from __future__ import annotations

from collections.abc import Mapping

from lit_distill.balance import Balance
from lit_distill.batch.labels import CLASS_TASKS, TASKS, Task
from lit_distill.criteria import Criterion, LogitMSE, SoftTarget
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine import checks
from lit_distill.engine.named_criteria import Weight, check_criteria, check_weights
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.schedules import Schedule
from lit_distill.utils.arguments import check_choice


def weighted_criteria(
    task_loss: TaskLoss,
    criteria: Mapping[str, Criterion] | None,
    weights: Mapping[str, Weight] | None,
    schedules: Mapping[str, Schedule] | None,
    balance: Balance | None,
    task: Task | None,
    strength: float,
) -> WeightedCriteria:
    """Return the criteria of ``Distill``, with the module's own loss as ``task``."""
    chosen = criteria if criteria is not None else _default_criteria(task)
    check_criteria(chosen)
    if weights is not None:
        check_weights(weights)
    if "task" in chosen:
        raise ValueError("'task' is the name of the module's own loss; give the criterion another.")
    if task is not None:
        check_choice("task", task, TASKS)
        checks.same_task(chosen, task, "Distill's")
    start: dict[str, Weight] = {"task": 0.1, "soft": 0.9} if criteria is None else {}
    if balance is not None:
        start.setdefault("task", 1.0)
    return WeightedCriteria({"task": task_loss, **chosen}, {**start, **(weights or {})}, schedules, balance, strength)


def common_task(criteria: Mapping[str, Criterion]) -> Task:
    """Return the task that the criteria are for; ``multiclass`` if they are for any."""
    tasks = map(checks.task_of, criteria.values())
    return next((task for task in tasks if task is not None), "multiclass")


def _default_criteria(task: Task | None) -> dict[str, Criterion]:
    if task is None or task in CLASS_TASKS:
        return {"soft": SoftTarget(task=task or "multiclass")}
    if task == "none":
        raise ValueError("Distill has no default criteria for the task 'none'; give criteria and weights.")
    return {"soft": LogitMSE()}
