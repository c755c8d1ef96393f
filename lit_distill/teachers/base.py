"""The interface of teachers."""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, BatchFormat, Inputs, Target
from lit_distill.capture.capture import Capture
from lit_distill.outputs import Outputs, UnreadLogits

_RENAMED = {
    "serving": "for_student",
    "bind": "set_student",
    "observe": "capture_layers",
    "check_owner": "set_owner",
    "attach": "on_fit_start",
    "prepare": "on_train_start",
    "begin_batch": "on_train_batch_start",
    "end_batch": "on_train_batch_end",
    "detach": "on_fit_end",
}


class Teacher(ABC):
    """The base of all teachers: computes the teacher's ``Outputs`` for a batch.

    A subclass must define ``__call__`` and ``predict``; every hook does nothing by default. They are called in this order:

    1. ``for_student``, ``set_student`` and ``capture_layers``, when the distillation is made;
    2. ``__call__`` on an example (the dry run), then ``skip_logits``, before the fit;
    3. ``set_owner`` and ``on_fit_start``, before the training loader is made; ``on_train_start``, once it is there;
    4. per training batch ``on_train_batch_start``, ``prefetch``, ``__call__``, ``own_loss``, ``on_train_batch_end``;
    5. per validation or test batch ``predict``;
    6. ``on_fit_end``, also after an error.

    A teacher is deliberately not an ``nn.Module``: Lightning then puts it into no optimizer, DDP reducer, checkpoint or weight
    average, and never into train mode.

    Args:
        model: The network; None for a teacher that has none (a table, a service).

    Attributes:
        frozen: The network never changes, so its outputs for the same inputs never do.
        role: A few words for the summary before the fit.
        follows: The criteria's gradients reach the network.
        needs_target: The teacher itself learns from labels.
        trained_in: The token of the module whose fit it last took part in; None before the first.
        needs_logits: The criteria read the logits of training batches; if not, these may come back empty.
    """

    frozen: ClassVar[bool] = True
    role: ClassVar[str] = "frozen"
    needs_target: ClassVar[bool] = False
    follows: bool = False
    needs_logits: bool = True
    _serves: weakref.ref[nn.Module] | None = None

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model if model is not None else NoNetwork()
        self.capture = Capture(self.model, owner="teacher")
        self.trained_in: str | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _RENAMED.items():
            if old in vars(cls) and new not in vars(cls):
                _warn_renamed(f"{cls.__name__}.{old}", new)
                setattr(cls, new, vars(cls)[old])

    def __getattr__(self, name: str) -> Any:
        if "trained_in" not in vars(self) and not name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: call super().__init__() in its __init__ first."
            )
        if name not in _RENAMED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _warn_renamed(name, _RENAMED[name])
        return getattr(self, _RENAMED[name])

    # The network ---------------------------------------------------------------------------------

    @property
    def network(self) -> nn.Module | None:
        """The network whose ``forward`` says what inputs the teacher takes; None if it takes what the student takes."""
        return None if isinstance(self.model, NoNetwork) else self.model

    @property
    def name(self) -> str:
        """The class of the network, or of the teacher itself if it has none, for messages."""
        return type(self if isinstance(self.model, NoNetwork) else self.model).__name__

    @property
    def registered(self) -> nn.Module | None:
        """The network, if it changes during training and so belongs to the LightningModule and its checkpoints."""
        return None

    @property
    def gives_all_logits(self) -> bool:
        """True if training batches hold the logits of every class; False if only the largest, and one number for the rest."""
        return True

    def for_student(self, student: nn.Module) -> Teacher:
        """Return the teacher to use for a student: this one, or a new one if this one already serves another student.

        Args:
            student: The network to train.

        Raises:
            ValueError: The teacher is made from its student (it defines ``set_student``), and already serves another.
        """
        serves = self._serves() if self._serves is not None else None
        if serves not in (None, student) and type(self).set_student is not Teacher.set_student:
            raise ValueError(
                f"this {type(self).__name__} already serves another student, and is made from its student: give each student a "
                "teacher of its own, or return a new one from for_student."
            )
        self._serves = weakref.ref(student)
        return self

    def set_student(self, student: nn.Module) -> None:
        """Called with the student before any layer is captured; for a teacher that is made from it."""

    def capture_layers(self, layers: Iterable[str], format_: BatchFormat | None = None) -> None:
        """Capture these layers from now on, instead of those before.

        Args:
            layers: Layer names.
            format_: How to read the teacher's outputs.
        """
        layers = list(layers)
        if layers and isinstance(self.model, NoNetwork):
            raise ValueError(
                f"the teacher {self.name} has no network, and so no layer {layers[0]!r}: use criteria on logits, give "
                "super().__init__() the network, or override capture_layers and fill Outputs.features yourself."
            )
        given = format_ or BatchFormat()
        key = given.teacher_output_key if given.teacher_output_key is not None else given.output_key
        class_dim = given.teacher_class_dim if given.teacher_class_dim is not None else given.class_dim
        self.capture.remove()
        self.capture = Capture(self.model, layers, key, "teacher", given.teacher_layout, class_dim)
        self.needs_logits = True

    def skip_logits(self, skip: bool = True) -> None:
        """Called after the dry run: True if no criterion reads the logits of training batches.

        Args:
            skip: The logits may come back empty.
        """
        self.needs_logits = not skip

    # A fit ---------------------------------------------------------------------------------------

    def set_owner(self, owner: str, resumed: bool) -> None:
        """Called at the start of a fit with the module's token.

        Args:
            owner: The token; the same for every fit of one module.
            resumed: The module's state comes from a checkpoint.

        Raises:
            ValueError: The teacher holds another module's training.
        """
        self.trained_in = owner

    def on_fit_start(self, trainer: Trainer, read_batch: Callable[[Any], Batch]) -> None:
        """Called at the start of a fit, before its training loader is made.

        Args:
            trainer: The running trainer.
            read_batch: Reads a loader's batch, on the device.
        """

    def on_train_start(self, trainer: Trainer, read_inputs: Callable[[Any], Inputs]) -> None:
        """Called once before the first training batch.

        Args:
            trainer: The running trainer; its training loader is ready.
            read_inputs: Turns a loader's batch into the teacher's inputs, on the module's device.
        """

    def on_train_batch_start(self) -> None:
        """Called before each training batch."""

    def on_train_batch_end(self, student: nn.Module, step: int) -> None:
        """Called after each training batch.

        Args:
            student: The student after the batch.
            step: Number of optimizer steps so far; with accumulation it stays the same for several batches.
        """

    def on_fit_end(self) -> None:
        """Called at the end of a run, also after an error."""

    # A batch -------------------------------------------------------------------------------------

    def prefetch(self, inputs: Inputs, mask: Tensor | None = None) -> None:
        """Called before the student's forward pass; a teacher that runs at the same time as the student starts here.

        Args:
            inputs: The network's inputs.
            mask: True at the positions that count, or None.
        """

    @abstractmethod
    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        """Return the outputs for a training batch; called after the student's forward pass.

        Args:
            inputs: The network's inputs.
            mask: True at the positions that count, or None; passed on to the outputs.
        """

    @abstractmethod
    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        """Return the outputs outside training (validation, test).

        Args:
            inputs: The network's inputs.
            mask: True at the positions that count, or None; passed on to the outputs.
        """

    def own_loss(self, outputs: Outputs, target: Target | None) -> Tensor | None:
        """Return the loss that the teacher itself learns from, or None if it learns nothing.

        Args:
            outputs: The teacher's outputs for the batch.
            target: The labels, by task if there are several.
        """
        return None

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the student to another device."""


class NoNetwork(nn.Module):
    """Stands for the network of a teacher that has none."""


def check_outputs(teacher: Teacher, outputs: object, method: str) -> Outputs:
    """Refuse what a teacher's method, ``__call__`` or ``predict``, returned if it is not ``Outputs`` of tensors."""
    where = f"{type(teacher).__name__}.{method} returned"
    if not isinstance(outputs, Outputs):
        what = "None" if outputs is None else f"a {type(outputs).__name__}"
        raise TypeError(f"{where} {what}; return lit_distill.Outputs(logits, mask=mask).")
    if not isinstance(outputs.logits, (Tensor, UnreadLogits)):
        raise TypeError(f"{where} Outputs whose logits are a {type(outputs.logits).__name__}; they must be a tensor.")
    return outputs


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"Teacher: {old} is called {new} now.", DeprecationWarning, stacklevel=3)
