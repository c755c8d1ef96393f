"""A call of a model, as it was heard."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import Arguments, Inputs, positions_and_names, tensors_of
from lit_distill.batch.entries import MASK_KEYS
from lit_distill.batch.snapshots import Change, Snapshot
from lit_distill.capture.hooks import LayerCalls


@dataclass
class Call:
    """One call of the model.

    Attributes:
        inputs: What it was called with.
        with_grad: Gradients were on.
        watch: On the inputs, since the call began; None where nothing tells of changes.
        name: The part of the model that was called; empty where that was the model itself.
        parts: Names of the parts that the call consists of, where the model was called part by part.
        raw: What it returned.
        layers: What the captured layers gave.
        mask_keys: Names of the arguments that say which of the logits' positions count.
        changed: What the model itself changed of its inputs.
    """

    inputs: Inputs
    with_grad: bool
    watch: Snapshot | None
    name: str = ""
    parts: tuple[str, ...] = ()
    raw: Any = None
    layers: LayerCalls | None = None
    mask_keys: tuple[str, ...] = MASK_KEYS
    changed: tuple[Change, ...] = ()

    @property
    def mask(self) -> Tensor | None:
        """True at the tokens that count, where the model was told by an argument of a usual name."""
        named = self.inputs.named if isinstance(self.inputs, Arguments) else self.inputs
        found = next((named[key] for key in self.mask_keys if key in named), None) if isinstance(named, dict) else None
        return found.bool() if isinstance(found, Tensor) else None


def inputs_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """What a model is called with, in the form that ``call_model`` takes."""
    if not kwargs:
        return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args
    return Arguments(args, kwargs) if args else kwargs


def in_words(inputs: Inputs) -> str:
    """What a model is called with: each argument's type and shape."""
    positional, named = positions_and_names(inputs)
    words = [_value_in_words(value) for value in positional]
    words += [f"{name}={_value_in_words(value)}" for name, value in named.items()]
    return ", ".join(words) or "nothing"


def _value_in_words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    inside = [_value_in_words(tensor) for tensor in tensors_of(value)]
    return f"{type(value).__name__}({', '.join(inside)})" if inside else type(value).__name__


@contextmanager
def explaining_inputs(owner: str, name: str, inputs: Inputs) -> Iterator[None]:
    """Say whose forward pass failed, and on what.

    Args:
        owner: ``student`` or ``teacher``.
        name: The network's class.
        inputs: What it is called with.

    Raises:
        ValueError: It failed on them. What this package itself refuses goes on as it is.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and _is_own(error):
            raise
        if "memory" in str(error) or "CUDA error" in str(error):  # tuners of the batch size look for these
            raise
        images = isinstance(error, (RuntimeError, AssertionError)) and any(one.dim() == 4 for one in tensors_of(inputs))
        other = (
            " It gets what the student gets"
            f"{': lit_distill.adapt(teacher, size=…, channels=…) brings images to what it wants' * images}"
            "; BatchFormat(teacher_input_key=…) gives it other entries of the batch."
        )
        raise ValueError(
            f"the {owner} ({name}) failed on the inputs that it was given, {in_words(inputs)} "
            f"({type(error).__name__}: {error}).{other * (owner == 'teacher')}"
        ) from error


def _is_own(error: BaseException) -> bool:
    """Whether this package raised it, as its hooks do while a network runs: it says whose it is already."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).split(".")[0] == __package__
