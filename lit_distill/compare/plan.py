"""A comparison's plan, as its YAML file says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lit_distill.compare.results import CONTROL

Spec = str | Mapping[str, Any]  # a network as a config writes it: a class, or class_path and init_args
Weights = Literal["auto", "configured"]
Layers = Mapping[str, str] | Literal["auto", "configured"]


@dataclass(frozen=True)
class PlannedStudent:
    """A network to train.

    Attributes:
        name: In tables.
        network: As a config writes it.
        layers: This network's names of the layers that the methods' configs name; None for the plan's.
    """

    name: str
    network: Spec
    layers: Layers | None = None


@dataclass(frozen=True)
class PlannedTeacher:
    """A network that teaches.

    Attributes:
        name: In tables.
        network: As a config writes it; None for that of the config which it is trained by.
        checkpoint: Its weights; where it is trained first, the file that it leaves.
        train: Configs to train it by, the later over the earlier; empty if it comes trained.
        options: To lay over these configs, value by option path.
        seed: Of its training.
        layers: This network's names of the layers that the methods' configs name; None for the plan's.
    """

    name: str
    network: Spec | None
    checkpoint: Path | None
    train: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    layers: Layers | None = None


@dataclass(frozen=True)
class PlannedMethod:
    """A way of training a student.

    Attributes:
        name: In tables.
        kind: ``method``: configs to lay over a pair, as those in ``configs/methods``. ``scheme``: a whole config, run as it
            is. ``chain``: that of a chain.
        configs: The files, the later over the earlier; none for the control.
        model: What a config would say of the module, in place of configs.
        options: To lay over the configs, value by option path.
        weights: ``auto`` leaves all weights out, to be found in training.
        scale: Fixes them instead at so many times what the run of ``found_by`` with the same seed found; None does not.
        entry: The name of its entry in the plan, of which several methods differ in their weights; empty for its own.
        layers: For this method; None for the networks'.
        epochs: For which the schedules in the configs were made; they keep their share of the plan's. None if they stay.
        students: That it is for; empty for all.
        teachers: That it is for: empty for all.
        taught: Whether it has a teacher of the plan.
        figure: The test's figure that is its score; None for the plan's metric.
        shipped: Whether it comes with the package.
        optional: Whether it is left out for pairs that it cannot be built for.
    """

    name: str
    kind: Literal["method", "scheme", "chain"]
    configs: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights = "configured"
    scale: float | None = None
    entry: str = ""
    layers: Layers | None = None
    epochs: int | None = None
    students: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    taught: bool = True
    figure: str | None = None
    shipped: bool = False
    optional: bool = False

    @property
    def found_by(self) -> str:
        """The method whose runs find the weights that ``scale`` multiplies; empty if there is none."""
        return "" if self.scale is None else with_weights(self.entry, "auto")


def with_weights(entry: str, weights: Weights | float) -> str:
    """Return the name of the method that an entry of several weights makes with one of them."""
    return f"{entry}, {weights if isinstance(weights, str) else f'x {weights:g}'}"


@dataclass(frozen=True)
class Choice:
    """A student, a teacher and a method, by name.

    Attributes:
        student: The student.
        teacher: The teacher; empty if there is none.
        method: The method; ``CONTROL`` for the student alone.
    """

    student: str
    teacher: str
    method: str

    @property
    def words(self) -> str:
        """The three in words."""
        return ", ".join(part for part in (self.student, self.teacher, self.method) if part)


@dataclass(frozen=True)
class ComparisonPlan:
    """What to compare.

    Attributes:
        title: Of the report.
        folder: For results, trained teachers and the report.
        students: By name.
        teachers: By name.
        methods: By name, without the control.
        control: How a student is trained without a teacher; None for its labels alone.
        seeds: Of the runs.
        epochs: Of each training.
        base: Sections of the configs that all runs start from: data, trainer, optimizer and lr_scheduler.
        model: Options of every run's module, such as ``task``.
        metric: The score's name in the test and validation figures, such as ``accuracy/student``.
        mode: ``max`` or ``min``: which is better. With ``min``, scores are the negative figures.
        layers: The networks' names of the layers that the methods' configs name. If None, they are found for methods that come
            with the package.
        threads: CPU threads of each run.
        share: Of the plan's own epochs, where others are asked for.
    """

    title: str
    folder: Path
    students: Mapping[str, PlannedStudent]
    teachers: Mapping[str, PlannedTeacher]
    methods: Mapping[str, PlannedMethod]
    control: PlannedMethod | None
    seeds: tuple[int, ...]
    epochs: int
    base: tuple[Mapping[str, Any], ...]
    model: Mapping[str, Any]
    metric: str = "accuracy/student"
    mode: Literal["max", "min"] = "max"
    layers: Layers | None = None
    threads: int = 1
    share: float = 1.0

    def choices(self) -> list[Choice]:
        """Return everything to compare, each student's control first."""
        found = [Choice(student, "", CONTROL) for student in self.students]
        for method in self.methods.values():
            students = method.students or tuple(self.students)
            teachers = method.teachers or tuple(self.teachers) if method.taught else ("",)
            found += [Choice(student, teacher, method.name) for student in students for teacher in teachers]
        return found

    def method_of(self, choice: Choice) -> PlannedMethod:
        """Return the method of a choice; the control's too."""
        if choice.method != CONTROL:
            return self.methods[choice.method]
        return self.control or PlannedMethod(CONTROL, "method", taught=False)

    def figure_of(self, choice: Choice) -> str:
        """Return the name of the figure that is a choice's score."""
        return self.method_of(choice).figure or self.metric
