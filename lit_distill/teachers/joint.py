"""A teacher that trains at the same time as its student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, Target
from lit_distill.batch.labels import Task
from lit_distill.capture.formats import refuse_fixed_mode, require_gradients
from lit_distill.criteria import HardTarget
from lit_distill.outputs import Outputs
from lit_distill.teachers.base import Teacher
from lit_distill.utils.arguments import check_flag, check_network, check_number, check_sizes


class JointTeacher(Teacher):
    """A teacher that trains together with its student, on the labels.

    One optimizer holds both networks, so clipping, accumulation and mixed precision work as usual. The criteria get the
    teacher's outputs detached from its graph, so they do not pull the teacher towards the student unless ``follow`` is set.

    Args:
        model: The network to train as the teacher.
        label_smoothing: Label smoothing of the teacher's own loss, in [0, 1).
        weight: Weight of the teacher's own loss in the sum, above 0.
        follow: Let the criteria's gradients reach the teacher.
        task: What the teacher's outputs are; the module's task.

    Raises:
        TypeError: ``model`` is not a network.
        ValueError: ``weight`` or ``label_smoothing`` is out of range, or the network is an exported program.

    Examples:
        >>> teacher = JointTeacher(nn.Linear(4, 3), weight=0.5)
        >>> teacher(torch.zeros(2, 4)).logits.requires_grad
        True
    """

    frozen = False
    role = "trained together with the student"
    needs_target = True

    def __init__(
        self,
        model: nn.Module,
        label_smoothing: float = 0.0,
        weight: float = 1.0,
        follow: bool = False,
        task: Task = "multiclass",
    ) -> None:
        check_network("the teacher", model)
        check_sizes("teacher", model)
        self.weight = check_number("the teacher's own weight", weight, above=0)
        refuse_fixed_mode(model, "teacher")
        require_gradients(model, True)
        super().__init__(model.train())
        self.follows = check_flag("follow", follow)
        self.task: Task = task
        self._hard = HardTarget(label_smoothing, task)

    def set_owner(self, owner: str, resumed: bool) -> None:
        if not resumed and self.trained_in not in (None, owner):
            raise ValueError(
                "this JointTeacher has trained in another module, and would continue from there: make a new one, with a new "
                "network (or with the trained one, if you mean that)."
            )
        super().set_owner(owner, resumed)

    @property
    def registered(self) -> nn.Module:
        return self.model

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        return self.capture.run(inputs, mask)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        with torch.no_grad():
            return self.capture.run(inputs, mask)

    def own_loss(self, outputs: Outputs, target: Target | None) -> Tensor:
        if target is None:
            raise ValueError("a teacher that trains with its student needs labels, and the batches have none.")
        if not isinstance(target, Tensor):
            raise ValueError(
                f"a joint teacher learns one task, and the batches have labels of several: {', '.join(target)}."
            )
        try:
            loss: Tensor = self._hard(outputs, Outputs.nothing(), target)
        except ValueError as error:
            raise ValueError(f"the teacher's own loss, JointTeacher(task={self.task!r}): {error}") from error
        return self.weight * loss
