"""The hooks that record a model's calls; each pickles and deep-copies with its model, unlike a closure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lit_distill.batch.untouched import Guard
from lit_distill.capture.call import Call, in_words, inputs_of
from lit_distill.capture.hooks import Store


@dataclass
class Recording:
    """The calls of one step, which the hooks write. It holds no module, so copying a module never copies back to it."""

    store: Store
    calls: list[Call]
    parts: list[Call]
    mask_keys: tuple[str, ...]
    guard: Guard
    name: str = ""  # of the model's class
    active: bool = False
    announced: bool = False  # a call of the model's own ``__call__`` has begun, whose forward comes next
    under_way: Call | None = None

    def begin(self, args: Any, kwargs: Any, part: str = "") -> None:
        """Start to record a call of the model, or of a part of it."""
        self.store.calls, self.store.recording = {}, True
        inputs = inputs_of(args, kwargs)
        watch = None if torch.compiler.is_compiling() else self.guard.watch({"inputs": inputs})
        self.under_way = Call(inputs, torch.is_grad_enabled(), watch, part, mask_keys=self.mask_keys)
        (self.parts if part else self.calls).append(self.under_way)

    def end(self, output: Any) -> None:
        """Record the output of the call under way."""
        call = self.under_way
        if call is not None:
            call.raw, call.layers = output, self.store.calls
            call.changed = tuple(self.guard.changes(call.watch)) if call.watch is not None else ()
        self.quiet()

    def quiet(self) -> None:
        """Stop to record the call under way."""
        self.store.calls, self.store.recording, self.under_way = {}, False, None


class Begin:
    """A forward pre-hook of the model, or of a part of it; a part's calls inside another call are not recorded."""

    def __init__(self, recording: Recording, part: str = "") -> None:
        self.recording = recording
        self.part = part

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        recording = self.recording
        if recording.active and (not self.part or recording.under_way is None):
            recording.begin(args, kwargs, self.part)
            recording.announced = recording.announced or not self.part


class End(Begin):
    """A forward hook of the model, or of a part of it; a part's also runs if the part raised an error."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.recording.under_way
        if self.recording.active and (not self.part or (call is not None and call.name == self.part)):
            self.recording.end(output)


class RecordedMethod:
    """A method of the model that may be called instead of ``__call__`` and its hooks: ``forward``, ``forward_features``."""

    def __init__(self, recording: Recording, original: Callable[..., Any], part: str = "") -> None:
        self.__wrapped__ = original  # for inspect.signature
        self._recording = recording
        self._part = part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recording = self._recording
        expected, recording.announced = recording.announced and not self._part, False
        inside = expected or (bool(self._part) and recording.under_way is not None)
        if not inside:
            recording.begin(args, kwargs, self._part)
        try:
            output = self.__wrapped__(*args, **kwargs)
        except BaseException as error:
            if not inside:
                recording.quiet()
            self._explain(error, args, kwargs)
            raise
        if not inside:
            recording.end(output)
        return output

    def _explain(self, error: BaseException, args: Any, kwargs: Any) -> None:
        if not self._part and not getattr(error, "__notes__", []):
            given = in_words(inputs_of(args, kwargs))
            error.add_note(f"the student ({self._recording.name}) failed on its inputs, {given}")
