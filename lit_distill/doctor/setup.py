"""The distillation that is examined: a module, or a callback next to a module of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lit_distill.callbacks import Distill
from lit_distill.criteria import Criterion
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.modules import DistillationModule
from lit_distill.teachers import FrozenTeacher, Teacher
from lit_distill.utils.compiling import call_own_methods
from lit_distill.utils.copying import copied
from lit_distill.utils.lightning_names import is_module
from lit_distill.utils.restoring import unchanged


@dataclass(frozen=True)
class Setup:
    """The parts of a distillation that the doctor examines."""

    module: LightningModule  # fitted by the Trainer
    holder: DistillationModule | Distill  # owns student, teacher and criteria: the module itself, or the callback
    given: nn.Module | Teacher | None  # the teacher that the holder was made with
    criteria_path: str  # in the module, the prefix of their parameters' names
    parts: frozenset[str]  # names of the module's children that the distillation consists of

    @property
    def criteria(self) -> WeightedCriteria:
        """The criteria with their weights."""
        return self.holder.criteria

    @property
    def student(self) -> nn.Module:
        """The network that learns; a callback knows it only after the fit is set up."""
        assert self.holder.distiller is not None, "the fit was not set up"
        return self.holder.distiller.student

    @property
    def teacher(self) -> Teacher | None:
        """The teacher; None if there is none, or if a callback has yet to make it from the network that it was given."""
        if self.holder.distiller is not None:
            return self.holder.distiller.teacher
        return self.given if isinstance(self.given, Teacher) else None

    def formulas(self) -> dict[str, Criterion]:
        """Return the criteria that train and are formulas of outputs: all but the loss of the module's own step."""
        return {
            name: criterion
            for name, criterion in self.criteria.criteria().items()
            if self.criteria.trains(name) and not isinstance(criterion, TaskLoss)
        }

    def criterion_of(self, parameter: str) -> str | None:
        """Return the criterion that contains a parameter of this name, or None."""
        inside = parameter.removeprefix(f"{self.criteria_path}.")
        name = inside.split(".")[0]
        return name if inside != parameter and name != "balance" else None

    def frozen_networks(self) -> dict[str, nn.Module]:
        """Return the frozen teacher and the module's other frozen networks, by the names that findings give them."""
        found: dict[str, nn.Module] = {}
        if self.teacher is not None and self.teacher.frozen:
            found[f"the teacher ({type(self.teacher.model).__name__})"] = self.teacher.model
        if self.student is self.module:  # what is frozen in it is a layer of the student
            return found
        for name, child in self.module.named_children():
            parameters = list(child.parameters())
            own = name in self.parts or child in found.values()
            if not own and parameters and not any(parameter.requires_grad for parameter in parameters):
                found[f"the module's {name} ({type(child).__name__})"] = child
        return found


def setup_of(module: LightningModule, callbacks: Iterable[Any] = ()) -> Setup:
    """Find the distillation in a module and the Trainer's callbacks."""
    if isinstance(module, DistillationModule):
        parts = frozenset({"student", "criteria", "joint_teacher"})
        return Setup(module, module, module.distiller.teacher, "criteria", parts)
    distill = next((callback for callback in callbacks if isinstance(callback, Distill)), None)
    if distill is None or not is_module(module):
        lacks = "without the callback" if is_module(module) else "which is no LightningModule"
        raise TypeError(
            "the doctor examines a DistillationModule, or a LightningModule of your own with a lit_distill.Distill among "
            f"trainer_options['callbacks']; it was given a {type(module).__name__}, {lacks}."
        )
    parts = frozenset({ENTRY_KEY, distill.student.split(".")[0]})
    return Setup(module, distill, distill.teacher, f"{ENTRY_KEY}.criteria", parts)


@contextmanager
def working_copy(setup: Setup) -> Iterator[Setup]:
    """Yield a copy that may be used up; a frozen teacher is shared with it, and is put back as it was at the end.

    Random states are put back as well.
    """
    given = setup.given
    network = given.model if isinstance(given, Teacher) else given
    shared = [network] if isinstance(given, (nn.Module, FrozenTeacher)) else []
    kept = [network] if network is not None else []
    with unchanged(*kept), _parameters_kept(kept), _teacher_kept(setup.teacher):
        try:
            parts = copied((setup.module, setup.holder, given), shared)
        except Exception as error:
            raise ValueError(
                f"the doctor examines a copy, and {type(setup.module).__name__} cannot be copied "
                f"({type(error).__name__}: {error}). Does it, or Distill, keep the tensors of a step, a lock or an open file?"
            ) from error
        twin = Setup(*parts, setup.criteria_path, setup.parts)
        call_own_methods(twin.module)
        try:
            yield twin
        finally:
            if twin.teacher is not None and twin.teacher is not setup.teacher:
                twin.teacher.capture.remove()  # its hooks may be on a network that is shared


@contextmanager
def _parameters_kept(networks: list[nn.Module]) -> Iterator[None]:
    own = [(p, p.detach().clone(), p.requires_grad) for network in networks for p in network.parameters()]
    try:
        yield
    finally:
        for parameter, value, wants_gradient in own:
            parameter.data = value  # a change of type or device replaces the data only
            parameter.requires_grad_(wants_gradient)


@contextmanager
def _teacher_kept(teacher: Teacher | None) -> Iterator[None]:
    """Put a teacher's own attributes back, and its hooks on the network."""
    if teacher is None:
        yield
        return
    before = dict(vars(teacher))
    try:
        yield
    finally:
        other_layers = teacher.capture is not before["capture"]
        if other_layers:
            teacher.capture.remove()
        vars(teacher).update(before)
        if other_layers:
            teacher.capture.restore()
