"""A teacher that is no PyTorch module: any function from a batch's inputs to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_distill.teachers.frozen import FrozenTeacher
from lit_distill.utils.arguments import check_choice, check_flag, check_number, described, wrong_type

Gives = Literal["logits", "probabilities"]


class FunctionNetwork(nn.Module):
    """Calls a function where a network is asked for.

    ``FunctionTeacher`` makes one. ``RecordedTeacher(FunctionNetwork(…))`` calls the function once for each training sample.

    Args:
        function: Takes the batch's inputs, and returns an array or a tensor with a row for each sample.
        gives: ``logits``; or ``probabilities`` of all classes, of which the logarithm is taken.
        arrays: The function takes NumPy arrays, and not tensors.
        least: Probabilities below it count as it, above 0 and below 1: a forest's are often exactly 0.

    Raises:
        TypeError: ``function`` cannot be called.
        ValueError: An argument is out of range.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> model = LogisticRegression().fit([[0.0], [1.0], [2.0]], [0, 1, 2])
        >>> network = FunctionNetwork(model.predict_proba, "probabilities")
        >>> network(torch.tensor([[0.0], [2.0]])).argmax(1)
        tensor([0, 2])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        gives: Gives = "logits",
        arrays: bool = True,
        least: float = 1e-6,
    ) -> None:
        super().__init__()
        if isinstance(function, (nn.Module, type)) or not callable(function):
            raise wrong_type(
                "function",
                function,
                "give a function from a batch's inputs to logits, such as model.predict_proba. A network needs no "
                "FunctionNetwork.",
            )
        self.function = function
        check_choice("gives", gives, ("logits", "probabilities"))
        self.gives = gives
        self.arrays = check_flag("arrays", arrays)
        self.least = check_number("least", least, above=0, below=1)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the logits, ``[B, C]`` or what the function gives, on the device of the inputs."""
        tensors = [one for one in (*inputs, *named.values()) if isinstance(one, Tensor)]
        found = self.function(*map(self._given, inputs), **{key: self._given(value) for key, value in named.items()})
        logits = _checked(found, len(tensors[0]) if tensors else None)
        if tensors:
            logits = logits.to(tensors[0].device)
        return logits if self.gives == "logits" else self._logarithm(logits)

    def _given(self, value: Any) -> Any:
        return value.detach().cpu().numpy() if self.arrays and isinstance(value, Tensor) else value

    def extra_repr(self) -> str:
        owner = getattr(self.function, "__self__", None)
        named = getattr(self.function, "__qualname__", None) or repr(self.function)
        of = f" of {type(owner).__qualname__}" if owner is not None else ""
        return f"{named}{of}, gives={self.gives!r}, least={self.least:g}"

    def _logarithm(self, found: Tensor) -> Tensor:
        if not bool(((found >= 0) & (found <= 1 + 1e-4)).all()) or not bool((found.sum(-1) - 1).abs().max() < 1e-2):
            raise ValueError(
                "the teacher's function returned numbers that are no probabilities of all classes (at least 0, with the sum 1 "
                "over the last dimension); set gives='logits', or return all classes' probabilities."
            )
        return found.clamp_min(self.least).log()


class FunctionTeacher(FrozenTeacher):
    """A teacher that is no PyTorch module: a scikit-learn model, a table, a service.

    It is called for every batch of training and evaluation. ``RecordedTeacher(FunctionNetwork(…))`` calls it once for each
    training sample. It has no layers: use criteria on logits.

    Args:
        function: Takes the batch's inputs, and returns an array or a tensor with a row for each sample.
        gives: ``logits``; or ``probabilities`` of all classes, of which the logarithm is taken.
        arrays: The function takes NumPy arrays, and not tensors.
        least: Probabilities below it count as it, above 0 and below 1: a forest's are often exactly 0.

    Raises:
        TypeError: ``function`` cannot be called, or returns no array.
        ValueError: An argument is out of range; or the function returns another number of rows, or what ``gives`` does not say.

    Example:
        >>> teacher = FunctionTeacher(lambda images: images.reshape(len(images), -1)[:, :3])
        >>> teacher.predict(torch.ones(2, 1, 2, 2)).logits.shape
        torch.Size([2, 3])
    """

    role = "a function"

    def __init__(
        self, function: Callable[..., Any], gives: Gives = "logits", arrays: bool = True, least: float = 1e-6
    ) -> None:
        super().__init__(FunctionNetwork(function, gives, arrays, least))

    @property
    def network(self) -> None:
        """None: it takes what the student takes."""


def _checked(found: Any, rows: int | None) -> Tensor:
    """Return what a function returned as a tensor of floats with a row for each sample."""
    if not isinstance(found, (Tensor, np.ndarray)):
        raise TypeError(
            f"the teacher's function returned {described(found)}; return an array or a tensor with a row for each sample."
        )
    logits = torch.as_tensor(found).detach()
    if not logits.is_floating_point():
        raise TypeError(f"the teacher's function returned {logits.dtype}; return floats: logits, or probabilities.")
    if logits.dim() == 0 or (rows is not None and len(logits) != rows):
        raise ValueError(
            f"the teacher's function returned {list(logits.shape)} for {rows} samples; it must return a row for each."
        )
    return logits.float() if logits.dtype == torch.float64 else logits
