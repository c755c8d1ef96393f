"""A student with a head for each of several tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from lit_distill.balance import Balance
from lit_distill.batch.batch import BatchFormat, given_format
from lit_distill.batch.labels import CLASS_TASKS, TASKS, Task
from lit_distill.criteria import Criterion, OnHead
from lit_distill.engine.checks import task_of
from lit_distill.engine.evaluator import Evaluator
from lit_distill.engine.named_criteria import Weight
from lit_distill.modules.base import DistillationModule, Metrics
from lit_distill.modules.defaults import (
    DEFAULT_TEMPERATURE,
    choose,
    logit_criteria,
    refuse_for_heads,
    refuse_temperature,
    refuse_unused,
)
from lit_distill.modules.hyperparameters import record_hyperparameters
from lit_distill.modules.optimization import Interval, OptimizerFactory, SchedulerFactory
from lit_distill.outputs import Outputs
from lit_distill.schedules import Schedule
from lit_distill.teachers import JointTeacher, Teacher
from lit_distill.utils.arguments import check_choice, check_named, check_temperature, check_text
from lit_distill.utils.names import nearest


class MultiTaskDistillation(DistillationModule):
    """Each head learns from its task's labels and from the teacher's head for the same task.

    The default criteria are ``hard_<task>`` (weight 0.1) and ``soft_<task>`` (weight 0.9) for each task. A task without a
    head in the teacher has only ``hard_<task>``, with weight 1. The tasks' losses are summed.

    The labels of a batch are a mapping from task to labels, ``(inputs, {"colour": …, "shape": …})``. If some samples have no
    label for a task, mark them with ``BatchFormat.missing_label``.

    Args:
        student: A network with several heads; it may return all of them, in a mapping by task or a tuple, or one of them.
        heads: The student's layer for each task, by the task's name in the labels.
        teacher: A network with several heads; an ensemble with one network per task, each a layer of it; a ``Teacher``; or
            None to train the student on labels only.
        teacher_heads: The teacher's layer for each task that it teaches; the layers of ``heads`` if None.
        criteria: Criteria by name instead of the defaults, each wrapped in ``OnHead``.
        weights: A weight for each criterion; found in training if ``auto`` or left out of your ``criteria``.
        temperature: Temperature of the default soft targets, above 0.
        task: What the outputs are (``multiclass``, ``binary``, ``multilabel``, ``regression``, ``embedding`` or ``none``):
            one for all heads, or one per task, by name.
        optimizer: Makes the optimizer from the trainable parameters; AdamW at 1e-3 if None.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer; the rate is constant if None.
        batch_format: Names of the entries in dict batches and outputs. ``output_key`` is the name of the first task if it
            is not given.
        fast: Compile the student, and give a frozen teacher the fastest runtime of the device.
        schedules: Values that change during training, by key: ``soft.weight``, ``soft.temperature``.
        balance: Finds the weights during training; ``weights`` stay fixed if None.
        metrics: Torchmetrics by name, computed for both networks in validation and test.
        lr_interval: When the scheduler steps: ``epoch`` or ``step``; depends on the scheduler if None.
        lr_monitor: The logged metric that ``ReduceLROnPlateau`` watches, such as ``val/cross_entropy/student``.
        strength: Multiplies the weight of every criterion that needs a teacher; 0 turns it off.

    Raises:
        ValueError: A task has no head, no criterion trains a task's head, or an argument is wrong.

    Examples:
        >>> from lit_distill.models import MultiHeadCNN
        >>> student = MultiHeadCNN({"colour": 3, "shape": 2})
        >>> module = MultiTaskDistillation(student, {"colour": "heads.colour", "shape": "heads.shape"})
        >>> list(module.criteria.criteria())
        ['hard_colour', 'hard_shape']
    """

    _evaluates_layers = True

    def __init__(
        self,
        student: nn.Module,
        heads: dict[str, str],
        teacher: nn.Module | Teacher | None = None,
        teacher_heads: dict[str, str] | None = None,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, Weight] | None = None,
        temperature: float = DEFAULT_TEMPERATURE,
        task: Task | dict[str, Task] = "multiclass",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        batch_format: BatchFormat | None = None,
        fast: bool = False,
        schedules: dict[str, Schedule] | None = None,
        balance: Balance | None = None,
        metrics: Metrics | None = None,
        lr_interval: Interval | None = None,
        lr_monitor: str | None = None,
        strength: float = 1.0,
    ) -> None:
        temperature = check_temperature(temperature)
        refuse_unused({}, criteria, temperature)
        _check_layers("heads", heads)
        if not heads:
            raise ValueError("heads is empty; name the student's layer of each task: {colour: heads.colour, …}.")
        kinds = task_kinds(heads, task)
        taught = _taught_heads(heads, teacher, teacher_heads)
        default, shares = _default_criteria(heads, taught, kinds, temperature) if criteria is None else ({}, {})
        chosen, weighting = choose(criteria, weights, default, shares)
        _check_heads(heads, kinds, chosen)
        layout = given_format(batch_format)
        refuse_for_heads(layout, ("mask_from_labels", "resize_logits"), "the option is of one task's labels")
        if layout.output_key is None:
            layout = replace(layout, output_key=next(iter(heads)))
        rest = (optimizer, lr_scheduler, layout, fast, schedules, balance, metrics, lr_interval, lr_monitor, strength)
        super().__init__(student, teacher, chosen, weighting, "none", *rest)
        self.heads, self.tasks = dict(heads), kinds
        read = {name: layer for name, layer in taught.items() if layer in self.criteria.teacher_layers}
        self._evaluator = Evaluator(kinds, self._teacher, read, metrics, strict=self.distiller.reads_labels)
        record_hyperparameters(
            self, {"temperature": temperature, "heads": self.heads, "teacher_heads": taught, "task": kinds}
        )

    def _evaluated_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        return {name: outputs.features[layer] for name, layer in self.heads.items()}


def task_kinds(heads: Mapping[str, str], task: Task | Mapping[str, Task]) -> dict[str, Task]:
    """Return what each head's outputs are, by task."""
    if not isinstance(task, str):
        check_named("task", task, "{'colour': 'multiclass', 'shape': 'binary'}")
    kinds: dict[str, Task] = dict.fromkeys(heads, task) if isinstance(task, str) else dict(task)
    _known("task", kinds, heads)
    missing = [name for name in heads if name not in kinds]
    if missing:
        raise ValueError(f"task says nothing of {', '.join(map(repr, missing))}; it must name every task of heads.")
    for name, kind in kinds.items():
        check_choice(f"the task {name!r}", kind, TASKS)
    return kinds


def _taught_heads(
    heads: Mapping[str, str], teacher: nn.Module | Teacher | None, teacher_heads: Mapping[str, str] | None
) -> dict[str, str]:
    if teacher is None:
        if teacher_heads is not None:
            raise ValueError("teacher_heads are given, and there is no teacher.")
        return {}
    if isinstance(teacher, JointTeacher):
        raise ValueError("a JointTeacher learns from the labels of one task; train the teacher of several tasks first.")
    if teacher_heads is None:
        return dict(heads)
    _check_layers("teacher_heads", teacher_heads)
    _known("teacher_heads", teacher_heads, heads)
    return dict(teacher_heads)


def _default_criteria(
    heads: Mapping[str, str], taught: Mapping[str, str], kinds: Mapping[str, Task], temperature: float
) -> tuple[dict[str, Criterion], dict[str, float]]:
    criteria: dict[str, Criterion] = {}
    weights: dict[str, float] = {}
    for name, layer in heads.items():
        kind, owner = kinds[name], f"the task {name!r} of MultiTaskDistillation"
        found, shares = logit_criteria(owner, kind, temperature if kind in CLASS_TASKS else DEFAULT_TEMPERATURE)
        if "hard" in found:
            criteria[f"hard_{name}"] = OnHead(found["hard"], layer, task_name=name)
            weights[f"hard_{name}"] = shares["hard"] if name in taught else 1.0
        if name in taught:
            criteria[f"soft_{name}"] = OnHead(found["soft"], layer, taught[name], name)
            weights[f"soft_{name}"] = shares["soft"]
    if not any(kind in CLASS_TASKS for kind in kinds.values()):
        refuse_temperature(next(iter(kinds.values())), temperature)
    return criteria, weights


def _check_heads(heads: Mapping[str, str], kinds: Mapping[str, Task], criteria: Mapping[str, Criterion]) -> None:
    """Refuse criteria that leave a head untrained, and criteria for another kind of task than their head's."""
    for name, layer in heads.items():
        own = {key: one for key, one in criteria.items() if isinstance(one, OnHead) and one.student_head == layer}
        if not own:
            raise ValueError(
                f"no criterion is on the head {layer!r} of task {name!r}, so nothing would train it; give it an OnHead, or "
                "leave it out of heads."
            )
        for key, one in own.items():
            kind = task_of(one)
            if kinds[name] != "none" and kind is not None and kind != kinds[name]:
                raise ValueError(
                    f"criterion {key!r} ({type(one.criterion).__name__}) is for the task {kind!r}, and {name!r} is "
                    f"{kinds[name]!r}; give both the same."
                )


def _check_layers(argument: str, layers: Mapping[str, str]) -> None:
    check_named(argument, layers, "{'colour': 'heads.colour'}")
    for name, layer in layers.items():
        check_text(f"{argument}[{name!r}]", layer, "the layer's name, such as 'heads.colour'")


def _known(argument: str, names: Iterable[str], heads: Mapping[str, str]) -> None:
    for name in names:
        if name not in heads:
            raise ValueError(
                f"{argument} names {name!r}, and heads has {', '.join(map(repr, heads))}.{nearest(name, heads)}"
            )
