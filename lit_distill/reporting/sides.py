"""The three networks of a report, and how each is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lit_distill.batch.batch import Batch, BatchFormat, Inputs
from lit_distill.batch.layouts import Layouts
from lit_distill.capture.capture import Capture
from lit_distill.capture.formats import cast_floats, floating_type
from lit_distill.outputs import Outputs
from lit_distill.teachers import Teacher, as_teacher
from lit_distill.utils.restoring import as_in_evaluation

Role = Literal["student", "no teacher", "teacher"]
STUDENT: Role = "student"
CONTROL: Role = "no teacher"
TEACHER: Role = "teacher"


@dataclass(frozen=True)
class Side:
    """A network of a report.

    Attributes:
        role: What it is in the report.
        name: Its class.
        network: The network; None for a teacher that has none, such as a table.
        predict: Returns the outputs for a batch.
        layouts: How its outputs are laid out.
    """

    role: Role
    name: str
    network: nn.Module | None
    predict: Callable[[Batch], Outputs]
    layouts: Layouts

    def inputs(self, data: Batch) -> Inputs:
        """Return what the network itself is called with."""
        given = data.for_teacher if self.role == TEACHER else data.inputs
        own = floating_type(self.network) if self.network is not None else None
        cast: Inputs = cast_floats(given, own) if own is not None else given
        return cast


def student_side(role: Role, network: nn.Module, format_: BatchFormat) -> Side:
    """Return the side of a student, or of the control."""
    capture = Capture(network, (), format_.output_key, role, format_.layout, format_.class_dim)
    return Side(role, type(network).__name__, network, lambda data: capture.predict(data.inputs), capture.layouts)


def teacher_side(given: nn.Module | Teacher, student: nn.Module, format_: BatchFormat) -> Side:
    """Return the side of a teacher."""
    teacher = as_teacher(given).for_student(student)
    teacher.set_student(student)
    teacher.capture_layers((), format_)
    return Side(
        TEACHER,
        teacher.name,
        teacher.network,
        lambda data: teacher.predict(data.for_teacher, data.mask),
        teacher.capture.layouts,
    )


@contextmanager
def left_as_they_are(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluate networks in the block without gradients, and leave modes, buffers and what trains as they were."""
    trains = [(parameter, parameter.requires_grad) for network in networks for parameter in network.parameters()]
    try:
        with torch.no_grad(), as_in_evaluation(*networks):
            yield
    finally:
        for parameter, value in trains:
            parameter.requires_grad_(value)
