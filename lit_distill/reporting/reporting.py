"""Makes a report of three networks and test data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torchmetrics import Metric, MetricCollection

from lit_distill.batch.batch import BatchFormat, given_format
from lit_distill.batch.labels import TASKS, Task
from lit_distill.batch.loaders import refuse_no_loader
from lit_distill.engine.own_metrics import named_metrics
from lit_distill.reporting.costs import run_costs
from lit_distill.reporting.judging import Judge
from lit_distill.reporting.outcome import NetworkFigures, StudentReport
from lit_distill.reporting.sides import CONTROL, STUDENT, TEACHER, Side, left_as_they_are, student_side, teacher_side
from lit_distill.reporting.writing import write_files
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_choice, check_network, check_number, check_text, check_whole
from lit_distill.utils.lightning_names import is_a
from lit_distill.utils.tensors import first_parameter

Say = Callable[[str], None]
NOTES = (
    "A latency is the median of repeated forward passes in evaluation, with its quartiles. Peak memory is that of weights and "
    "tensors that live at the same time. Intervals are of 95 %, paired, over the test samples; they do not hold the chance of "
    "training, as each network was trained once: `lit-distill compare` trains over seeds.",
)
_HOW_TO_MAKE = (
    "train the same network without a teacher, with the same data, epochs, optimizer and seed "
    "(lit_distill.SupervisedModule(network)), and give it as control=network"
)


def report(
    student: nn.Module,
    teacher: nn.Module | Teacher,
    loader: Iterable[Any],
    control: nn.Module,
    task: Task = "multiclass",
    batch_format: BatchFormat | None = None,
    metrics: Mapping[str, Metric] | MetricCollection | None = None,
    classes: Sequence[str] = (),
    batch_size: int = 32,
    timing_seconds: float = 0.5,
    title: str = "Report",
    folder: str | Path | None = None,
) -> StudentReport:
    """Report what a student saves, what that costs, and whether its teacher helped.

    The three networks see the same batches, and take turns where time is measured, on the device that they are on. They stay
    as they are. ``lit-distill report --config … --ckpt_path …`` is the same for a config.

    Args:
        student: The network that learned from the teacher.
        teacher: Its teacher, a network or a ``Teacher``.
        loader: Yields test batches with labels, read as in training; all are evaluated.
        control: The same network as the student, trained alike but without a teacher.
        task: What the outputs are: ``multiclass``, ``binary``, ``multilabel``, ``regression``, ``embedding`` or ``none``.
        batch_format: Names of the entries in dict batches and outputs.
        metrics: Torchmetrics by name, computed for all three; the task ``none`` has no others.
        classes: Names of the classes in the order of the logits; their numbers are shown for those without one.
        batch_size: Samples of the larger batch that is timed, beside one sample; at least 1.
        timing_seconds: To time each network for, at the least, with each batch and number of threads; above 0.
        title: Of the report.
        folder: Where to write ``report.html``, ``report.md``, ``report.json`` and ``tensorboard``; nothing is written if None.

    Returns:
        The figures; printed, they are a table.

    Raises:
        ValueError: There is no control, the loader is empty or without labels, a batch does not fit the networks or the task,
            or two of the three are one network.
        TypeError: An argument has the wrong type.

    Example:
        >>> import torch
        >>> from lit_distill.models import SmallCNN
        >>> data = [(torch.rand(1, 8, 8), label % 10) for label in range(20)]
        >>> loader = torch.utils.data.DataLoader(data, batch_size=10)
        >>> found = report(SmallCNN(4), SmallCNN(8), loader, control=SmallCNN(4), timing_seconds=0.01)
        >>> found.student.run.cost.parameters, found.teacher.run.cost.parameters, found.samples
        (1030, 3778, 20)
    """
    _check(student, teacher, loader, control, task, batch_size, timing_seconds, title, metrics)
    format_ = given_format(batch_format)
    networks = [student, control, *([teacher] if isinstance(teacher, nn.Module) else [])]
    with left_as_they_are(networks):
        sides = [
            student_side(STUDENT, student, format_),
            student_side(CONTROL, control, format_),
            teacher_side(teacher, student, format_),
        ]
        judge = Judge(sides, task, format_, named_metrics(metrics, {"": task}))
        judge.add_all(loader)
        found = make_report(judge, sides, title, batch_size, timing_seconds, tuple(classes))
    if folder is not None:
        write_files(found, Path(folder))
    return found


def make_report(
    judge: Judge,
    sides: Sequence[Side],
    title: str,
    batch_size: int,
    seconds: float = 0.5,
    classes: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> StudentReport:
    """Measure what the networks cost, and join that with what a judge has seen of them.

    Raises:
        ValueError: The judge has seen no labels, or no batch.
    """
    judge.check_data()
    assert judge.example is not None
    costs = run_costs(sides, judge.example, batch_size, seconds)
    networks = [
        NetworkFigures(one.role, one.name, costs.get(one.role), judge.figures(one.role), judge.bins(one.role))
        for one in sides
    ]
    gaps = [judge.gap(role) for role in (TEACHER, CONTROL)]
    known = tuple(one for one in gaps if one is not None)
    kept = judge.disagreements
    told = (tuple(classes), (*notes, *NOTES), kept.by_class(), kept.examples())
    return StudentReport(title, judge.task, judge.samples, tuple(networks), known, *told)


def _check(
    student: nn.Module,
    teacher: nn.Module | Teacher,
    loader: Any,
    control: nn.Module | None,
    task: Task,
    batch_size: int,
    timing_seconds: float,
    title: str,
    metrics: object,
) -> None:
    check_network("student", student)
    if not isinstance(teacher, Teacher):
        check_network("teacher", teacher)
    if control is None:
        raise ValueError(
            f"a report needs the control, as without it nobody knows what the teacher did: {_HOW_TO_MAKE}."
        )
    check_network("control", control)
    check_choice("task", task, TASKS)
    check_whole("batch_size", batch_size, least=1)
    check_number("timing_seconds", timing_seconds, above=0)
    check_text("title", title, "a line")
    if is_a(loader, "LightningDataModule"):
        raise TypeError("loader is a LightningDataModule; give its loader: data.setup('test'), data.test_dataloader().")
    refuse_no_loader(loader)
    if task == "none" and not metrics:
        raise ValueError("the task 'none' has no metrics of its own: give metrics={name: a torchmetrics.Metric}.")
    check_three(student, teacher if isinstance(teacher, nn.Module) else teacher.network, control)


def check_three(student: nn.Module, teacher: nn.Module | None, control: nn.Module) -> None:
    """Refuse one network in two places, and networks on different devices.

    Raises:
        ValueError: They are.
    """
    for name, one, other in (
        ("student", student, control),
        ("teacher", teacher, control),
        ("teacher", teacher, student),
    ):
        if one is other:
            raise ValueError(
                f"the {name} and the {'control' if other is control else 'student'} are one and the same network; "
                f"{_HOW_TO_MAKE}."
            )
    devices = {str(first_parameter(one).device) for one in (student, teacher, control) if one is not None}
    if len(devices) > 1:
        raise ValueError(f"the networks are on {' and '.join(sorted(devices))}; move them to one device.")
