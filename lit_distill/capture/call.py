"""A recorded call of a model."""

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
    """A call of the model."""

    inputs: Inputs
    with_grad: bool
    watch: Snapshot | None  # of the inputs at the start of the call; None under torch.compile
    name: str = ""  # of the part of the model that was called; empty for the model itself
    parts: tuple[str, ...] = ()  # that the call consists of, if the model was called part by part
    raw: Any = None  # the return value
    layers: LayerCalls | None = None
    mask_keys: tuple[str, ...] = MASK_KEYS  # arguments that say which positions of the logits count
    changed: tuple[Change, ...] = ()  # by the model, of its inputs

    @property
    def mask(self) -> Tensor | None:
        """True at the tokens that count, from an argument with a usual name; else None."""
        _, named = positions_and_names(self.inputs)
        found = next((named[key] for key in self.mask_keys if key in named), None)
        return found.bool() if isinstance(found, Tensor) else None


def inputs_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Return a call's arguments in the form that ``call_model`` takes."""
    if not kwargs:
        return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args
    return Arguments(args, kwargs) if args else kwargs


def in_words(inputs: Inputs) -> str:
    """Describe a call's arguments by type and shape."""
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
    """Name the network (its owner, its class) and its inputs in the error of a forward pass."""
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
            f"{': lit_distill.adapt(teacher, size=…, channels=…) brings images to its size and channels' * images}"
            "; BatchFormat(teacher_input_key=…) gives it other entries of the batch."
        )
        raise ValueError(
            f"the {owner} ({name}) failed on the inputs that it was given, {in_words(inputs)} "
            f"({type(error).__name__}: {error}).{other * (owner == 'teacher')}"
        ) from error


def _is_own(error: BaseException) -> bool:
    """Return True if this package raised the error, in a hook: its message is complete."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("lit_distill.")
