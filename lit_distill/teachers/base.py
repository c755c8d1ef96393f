"""What a teacher is: something that gives ``Outputs`` for a batch. Criteria cannot tell which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, BatchFormat, Inputs, Target
from lit_distill.capture.capture import Capture
from lit_distill.outputs import Outputs


class Teacher(ABC):
    """Gives the teacher's outputs for a batch.

    It is a plain object on purpose: a module that Lightning does not register is in no optimizer, no DDP
    reducer, no checkpoint and no weight average, and nothing can put it back into train mode.

    Args:
        model: The network.

    Attributes:
        frozen: The network never changes, so that its outputs for the same inputs never do.
        role: What it is to the student, in words.
        follows: The criteria's gradients reach the network.
        needs_target: The teacher itself learns from labels.
        trained_in: Whose fits it has taken part in last; None before the first.
        needs_logits: The criteria read the logits of training batches; where they do not, these may come back empty.
    """

    frozen: ClassVar[bool] = True
    role: ClassVar[str] = "frozen"
    needs_target: ClassVar[bool] = False
    follows: bool = False
    needs_logits: bool = True

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.capture = Capture(model, owner="teacher")
        self.trained_in: str | None = None

    @property
    def network(self) -> nn.Module | None:
        """The network whose ``forward`` says what inputs the teacher takes; None where it takes what the student takes."""
        return self.model

    def observe(self, layers: Iterable[str], format_: BatchFormat | None = None) -> None:
        """Capture these layers from now on, in place of those before.

        Args:
            layers: References.
            format_: How to read the teacher's outputs.
        """
        told = format_ or BatchFormat()
        key = told.teacher_output_key if told.teacher_output_key is not None else told.output_key
        class_dim = told.teacher_class_dim if told.teacher_class_dim is not None else told.class_dim
        self.capture.remove()
        self.capture = Capture(self.model, layers, key, "teacher", told.teacher_layout, class_dim)
        self.needs_logits = True

    @property
    def registered(self) -> nn.Module | None:
        """The network, where it changes during training and so belongs to the LightningModule and its checkpoints."""
        return None

    def serving(self, student: nn.Module) -> Teacher:
        """The teacher to use for a student: this one, or another of the same network where this one serves somebody else.

        Args:
            student: The student.
        """
        return self

    def check_owner(self, owner: str) -> None:
        """Refuse to go on for a module where another's training is in this teacher.

        Args:
            owner: The module's.

        Raises:
            ValueError: It is.
        """

    def bind(self, student: nn.Module) -> None:
        """Be told the student, before any of its layers is read; for a teacher that is made from it."""

    def prepare(self, trainer: Trainer, read: Callable[[Any], Inputs]) -> None:
        """Do once, before the first training batch, what this teacher needs.

        Args:
            trainer: The running trainer; its training loader is ready.
            read: Takes a loader's batch to the model's inputs, on the module's device.
        """

    def attach(self, trainer: Trainer, unpack: Callable[[Any], Batch]) -> None:
        """Take part in a fit, before its training loader is made.

        Args:
            trainer: The running trainer.
            unpack: Takes a batch on the device apart.
        """

    def begin_batch(self) -> None:
        """Be told that the next training batch begins."""

    def end_batch(self, student: nn.Module, step: int) -> None:
        """Be told that a training batch ended.

        Args:
            student: The student as it is now.
            step: Number of optimizer steps so far; with accumulation it stays the same for several batches.
        """

    def detach(self) -> None:
        """Leave the fit that the teacher took part in."""

    @abstractmethod
    def __call__(self, inputs: Inputs, mask: Tensor | None = None, *, calibrate: bool = False) -> Outputs:
        """The outputs for a training batch."""

    def ask(self, inputs: Inputs, mask: Tensor | None = None) -> Callable[[], Outputs]:
        """Ask about a training batch before the student runs; what is returned gives the outputs after it."""
        return lambda: self(inputs, mask)

    @abstractmethod
    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        """The outputs for inputs outside training (validation, test)."""

    def own_loss(self, outputs: Outputs, target: Target | None) -> Tensor | None:
        """What the teacher itself learns from, or None where it learns nothing."""
        return None

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the student to another device."""
