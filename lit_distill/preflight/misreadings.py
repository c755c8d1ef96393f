"""Warnings of set-ups that are probably not intended: labels of another task, sample weights that nothing reads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL, BatchFormat, Target
from lit_distill.batch.labels import CLASS_TASKS, Task, class_dim
from lit_distill.criteria import Criterion, HardTarget, OwnTeacher
from lit_distill.criteria.on_head import OnHead
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine.checks import task_of
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.utils.notices import warn

_TOLERANCE = 0.02  # of a row of class probabilities to 1, as in ``labels``


def warn_of_other_tasks(criteria: WeightedCriteria, student: Outputs, target: Target | None) -> None:
    """Warn if labels look like those of another task than that of a criterion that compares logits.

    A criterion that reads labels refuses such labels itself; one that only compares the networks would train on.
    """
    for name, criterion in criteria.criteria().items():
        task, outputs = task_of(criterion), _logits_of(criterion, student)
        labels = _labels_of(criterion, target)
        if not criterion.compares_logits or criterion.needs_target or not criteria.trains(name):
            continue
        if task is None or labels is None or outputs is None:
            continue
        likely = likely_tasks(labels, outputs, task)
        if likely:
            shown = " or ".join(map(repr, likely))
            remedy = f"If they are of the task {shown}, set task={likely[0]!r} in the module, or in Distill, "
            remedy += "and in its criteria" if likely[0] in CLASS_TASKS else "and compare the outputs by LogitMSE"
            warn(
                f"criterion {name!r} ({type(criterion).__name__}) compares the outputs as scores of classes (task {task!r}), "
                f"and the labels {list(labels.shape)} for outputs {list(outputs.shape)} look like those of the task "
                f"{shown}. {remedy}."
            )


def likely_tasks(labels: Tensor, logits: Tensor, task: Task) -> tuple[Task, ...]:
    """Return the tasks that labels look like if they do not fit a classification task; empty if they do."""
    if task not in CLASS_TASKS or labels.shape[:1] != logits.shape[:1] or not labels.numel():
        return ()
    column = labels.numel() == logits.numel() and task != "multiclass"
    if labels.shape != logits.shape and not column:
        return ()
    values = labels.float()
    known = values != IGNORED_LABEL
    if bool((((values < 0) | (values > 1)) & known).any()):
        return ("regression",)
    if task != "multiclass" or logits.dim() < 2:
        return ()
    place = class_dim(logits)
    rows = values.sum(place)[known.all(place)]
    if bool(((rows - 1).abs() <= _TOLERANCE).all()):
        return ()
    whole = bool(((values == 0) | (values == 1) | ~known).all())
    return ("multilabel",) if whole else ("regression", "multilabel")


def warn_of_unread_weights(criteria: WeightedCriteria, format_: BatchFormat) -> None:
    """Warn if ``weight_key`` is set, and no criterion reads the samples' weights; the user's own may read what they like."""
    named = criteria.criteria()
    if format_.weight_key is None or any(criteria.trains(name) and may_weigh(one) for name, one in named.items()):
        return
    others = ", ".join(repr(name) for name, one in named.items() if not isinstance(one, TaskLoss))
    warn(
        f"weight_key is set, and no criterion reads the samples' weights: {others} count{'s' * (', ' not in others)} all "
        "samples alike. HardTarget reads them; the loss of a training_step of your own does not see them. Add a HardTarget, or "
        "leave weight_key out."
    )


def may_weigh(criterion: Criterion) -> bool:
    """Return True if a criterion, or the one that it wraps, may read sample weights; the user's own may."""
    if criterion.wrapped is not None:
        return may_weigh(criterion.wrapped)
    ours = type(criterion).__module__.startswith("lit_distill.")
    return isinstance(criterion, (HardTarget, OwnTeacher)) or not ours


def _logits_of(criterion: Criterion, student: Outputs) -> Tensor | None:
    if isinstance(criterion, OnHead):
        return student.features.get(criterion.student_head)
    return student.logits if student.has_logits else None


def _labels_of(criterion: Criterion, target: Target | None) -> Tensor | None:
    if isinstance(target, Mapping):
        name = criterion.task_name if isinstance(criterion, OnHead) else None
        target = target.get(name) if name is not None else None
    return target if isinstance(target, Tensor) else None
