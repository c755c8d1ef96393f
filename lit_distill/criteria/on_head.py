"""Any criterion on one of several heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from lit_distill.batch.batch import Target
from lit_distill.criteria.base import Criterion
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_object, check_text
from lit_distill.utils.names import nearest


class OnHead(Criterion):
    """Applies a criterion to the output of one head and the labels of one task.

    A head is a layer like any other: the module whose output is the logits of that task, or a whole network. The equation
    is the criterion's.

    Args:
        criterion: The criterion that compares the heads; it is trained and saved as usual.
        student_head: The student's head, a layer reference without a glob.
        teacher_head: The teacher's head; if None, the teacher's logits are compared.
        task_name: The name of the task in the labels, if a batch has labels of several tasks; if None, all of the labels.

    Raises:
        ValueError: A head is a glob, or a teacher's head is given to a criterion that reads no teacher.

    Examples:
        >>> from lit_distill.criteria import HardTarget
        >>> student = Outputs(torch.zeros(1, 3), {"heads.colour": torch.tensor([[2.0, 0.0]])})
        >>> labels = {"colour": torch.tensor([0]), "shape": torch.tensor([4])}
        >>> OnHead(HardTarget(), "heads.colour", task_name="colour")(student, Outputs.nothing(), labels)
        tensor(0.1269)
    """

    takes_tasks = True

    def __init__(
        self, criterion: Criterion, student_head: str, teacher_head: str | None = None, task_name: str | None = None
    ) -> None:
        super().__init__()
        check_object("criterion", criterion, Criterion, "give a lit_distill.criteria.Criterion: HardTarget().")
        example = "a layer's name, such as 'heads.colour'"
        check_text("student_head", student_head, example)
        for name, head in (("teacher_head", teacher_head), ("task_name", task_name)):
            if head is not None:
                check_text(name, head, example)
        for head in (student_head, teacher_head or ""):
            if any(mark in head for mark in "*?["):
                raise ValueError(f"a head is one layer, and {head!r} may be several; write a criterion for each.")
        if teacher_head is not None and not criterion.needs_teacher:
            raise ValueError(f"{type(criterion).__name__} reads no teacher; leave teacher_head={teacher_head!r} out.")
        self.criterion = criterion
        self.student_head, self.teacher_head, self.task_name = student_head, teacher_head, task_name
        self.needs_target, self.needs_teacher = criterion.needs_target, criterion.needs_teacher
        self.compares_logits = criterion.compares_logits

    @property
    def student_layers(self) -> tuple[str, ...]:
        return (*self.criterion.student_layers, self.student_head)

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return (*self.criterion.teacher_layers, *([self.teacher_head] if self.teacher_head is not None else []))

    @property
    def temperature(self) -> float | None:
        """The temperature of the wrapped criterion, or None."""
        found = self.criterion.temperature
        return float(found) if isinstance(found, (int, float)) else None

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        self.criterion.temperature = value

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size the criterion's own layers from the heads' outputs."""
        self.criterion.build(*self._at_heads(student, teacher))

    def forward(self, student: Outputs, teacher: Outputs, target: Target | None) -> Tensor:
        value: Tensor = self.criterion(*self._at_heads(student, teacher), self._labels(target))
        return value

    def _at_heads(self, student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
        student = replace(student, logits=student.features[self.student_head])
        if self.teacher_head is not None:
            teacher = replace(teacher, logits=teacher.features[self.teacher_head])
        return student, teacher

    def _labels(self, target: Target | None) -> Tensor | None:
        if target is None or not self.needs_target:
            return None
        if isinstance(target, Tensor):
            if self.task_name is None:
                return target
            raise ValueError(
                f"the labels of task {self.task_name!r} are wanted, and the batch has those of only one task."
            )
        return task_labels(target, self.task_name)


def task_labels(target: Mapping[str, Tensor], name: str | None) -> Tensor:
    """Return the labels of one task; if there is no such task, the error gives the nearest name."""
    if name is None:
        raise ValueError(f"the batch has labels of the tasks {_quoted(target)}; say which with task_name.")
    if name in target:
        return target[name]
    hint = nearest(name, target).replace(" Did", "; did") or "."
    raise ValueError(f"the batch has no labels of a task {name!r}{hint} It has {_quoted(target)}.")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
