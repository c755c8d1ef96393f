"""Reads a model's forward passes where somebody else calls it: the ``training_step`` of a LightningModule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.batch import Arguments, Inputs, tensors_of
from lit_distill.capture import Capture, LayerCalls, Store
from lit_distill.entries import MASK_KEYS
from lit_distill.outputs import Outputs

WhichCall = int | Literal["all"] | None


@dataclass
class Call:
    """One call of the model.

    Attributes:
        inputs: What it was called with.
        with_grad: Gradients were on.
        versions: Of the inputs' tensors, when the call began.
        raw: What it returned.
        layers: What the captured layers gave.
    """

    inputs: Inputs
    with_grad: bool
    versions: list[int]
    raw: Any = None
    layers: LayerCalls | None = None

    @property
    def mask(self) -> Tensor | None:
        """True at the tokens that count, where the model was told by an argument of a usual name."""
        named = self.inputs.named if isinstance(self.inputs, Arguments) else self.inputs
        found = next((named[key] for key in MASK_KEYS if key in named), None) if isinstance(named, dict) else None
        return found.bool() if isinstance(found, Tensor) else None


def choose_calls(calls: list[Call], which: WhichCall, student: str) -> list[Call]:
    """The calls of a step that count: those with gradients, and of several the ones that ``which`` says.

    Args:
        calls: A step's.
        which: 0 is the first, -1 the last, ``all`` all of them; None where there is one alone.
        student: The student's name, for messages.

    Raises:
        ValueError: There are several and ``which`` is None, or there is no such call.
    """
    made = [call for call in calls if call.with_grad and call.layers is not None]
    if which == "all" or (len(made) <= 1 and which in (None, 0, -1)):
        return made
    if which is None:
        raise ValueError(
            f"training_step calls the student {student!r} {len(made)} times with gradients on; say which call counts: "
            "call=0 is the first, call=-1 the last, call='all' the mean over all."
        )
    assert isinstance(which, int)
    if not -len(made) <= which < len(made):
        raise ValueError(f"training_step calls {student!r} {len(made)} times; there is no call {which}.")
    return [made[which]]


@dataclass
class _Ear:
    """What the hooks write to: the calls of one step. It knows no module, so that copying one never leads back to it."""

    store: Store
    calls: list[Call]
    listening: bool = False


class _Begin:
    """A forward pre-hook that pickles and deep-copies with its model, unlike a closure."""

    def __init__(self, ear: _Ear) -> None:
        self.ear = ear

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.ear.listening:
            store = self.ear.store
            store.calls, store.recording = {}, True
            inputs = _as_inputs(args, kwargs)
            self.ear.calls.append(Call(inputs, torch.is_grad_enabled(), _versions(inputs)))


class _End:
    """A forward hook, likewise."""

    def __init__(self, ear: _Ear) -> None:
        self.ear = ear

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.ear.listening:
            store, call = self.ear.store, self.ear.calls[-1]
            call.raw, call.layers = output, store.calls
            store.calls, store.recording = {}, False


class Listener:
    """Reads the calls that somebody else makes of a captured model.

    Args:
        capture: The model and its layers.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._ear = _Ear(capture.store, [])
        root = getattr(capture.model, "_orig_mod", capture.model)  # copies of a compiled model's wrapper lose its hooks
        self._handles = [
            root.register_forward_pre_hook(_Begin(self._ear), with_kwargs=True),
            root.register_forward_hook(_End(self._ear)),
        ]

    @contextmanager
    def listen(self) -> Iterator[list[Call]]:
        """Read the calls made meanwhile.

        Yields:
            The calls in their order, whole once the block has ended.
        """
        self._ear.calls, self._ear.listening = [], True
        try:
            yield self._ear.calls
        finally:
            store = self.capture.store
            store.recording, store.calls = False, {}
            self._ear.calls, self._ear.listening = [], False

    def read(self, call: Call, mask: Tensor | None = None, *, calibrate: bool = False) -> Outputs:
        """The model's outputs in a call.

        Args:
            call: As ``listen`` gave it.
            mask: Passed on to the outputs, where the call itself names none.
            calibrate: As in ``Capture.run``; without it, every layer must carry a gradient.

        Raises:
            RuntimeError: The model changed its inputs in place, or as ``Capture.run`` does.
        """
        if call.versions and call.versions != _versions(call.inputs):
            raise RuntimeError(
                "the inputs of the student were changed in place after it was called, and the teacher has to see what the "
                "student saw: give the student a clone, model(x.clone())."
            )
        mask = call.mask if call.mask is not None else mask
        return self.capture.read(call.raw, call.layers or {}, mask, calibrate=calibrate, need_grad=not calibrate)

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.capture.remove()


def _as_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    if not kwargs:
        return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args
    return Arguments(args, kwargs) if args else kwargs


def _versions(inputs: Inputs) -> list[int]:
    if torch.compiler.is_compiling():
        return []
    return [tensor._version for tensor in tensors_of(inputs) if not tensor.is_inference()]
