"""Records a model's forward passes while other code calls it: the ``training_step`` of a LightningModule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric

from lit_distill.batch.batch import Inputs
from lit_distill.batch.entries import mask_keys_for
from lit_distill.batch.signatures import signature_of
from lit_distill.batch.untouched import Guard, refusal
from lit_distill.capture.call import Call
from lit_distill.capture.call_hooks import Begin, End, RecordedMethod, Recording
from lit_distill.capture.capture import Capture, is_compiled
from lit_distill.capture.parts import join_parts
from lit_distill.outputs import Outputs
from lit_distill.utils.compiling import uncompiled

WhichCall = int | Literal["all"] | None


def check_call(which: object) -> None:
    """Refuse a choice of a call that is neither a whole number, ``all`` nor None."""
    if which is not None and which != "all" and (isinstance(which, bool) or not isinstance(which, int)):
        raise TypeError(f"call is {which!r}; give the number of a call (0 the first, -1 the last), or 'all'.")


def choose_calls(calls: list[Call], which: WhichCall, student: str, step: str = "training_step") -> list[Call]:
    """Return the calls of a step to distil: those with gradients, and of several the ones that ``which`` chooses."""
    made = [call for call in calls if call.with_grad and call.layers is not None]
    if which == "all" or (len(made) <= 1 and which in (None, 0, -1)):
        return made
    if which is None:
        with_gradients = " with gradients on" if step == "training_step" else ""
        raise ValueError(
            f"{step} calls the student {student!r} {len(made)} times{with_gradients}; say which call counts: "
            "call=0 is the first, call=-1 the last, call='all' the mean over all."
        )
    assert isinstance(which, int)
    if not -len(made) <= which < len(made):
        raise ValueError(f"{step} calls {student!r} {len(made)} times; there is no call {which}.")
    return [made[which]]


class CallRecorder:
    """Records the calls that other code makes of a captured model, by ``model(x)`` or ``model.forward(x)``.

    ``refusal`` is why the parts that were called last cannot be joined to one call; None if they can, or none were called.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.refusal: str | None = None
        self.guard = Guard()
        self._recording = Recording(capture.store, [], [], mask_keys_for(signature_of(capture.model)), self.guard)
        self._recording.name = type(self._root).__name__
        self._methods: list[str] = []
        self._known: tuple[str, ...] = ()
        root = self._root  # copies of a compiled model's wrapper lose its hooks
        self._handles = [
            root.register_forward_pre_hook(Begin(self._recording), with_kwargs=True),
            root.register_forward_hook(End(self._recording)),
        ]
        self._part_handles: list[Any] = []

    @property
    def _root(self) -> nn.Module:
        return uncompiled(self.capture.model)

    def record_parts(self, names: Sequence[str] | None = None, known: bool = False) -> None:
        """Record the calls of the model's parts too, in steps that do not call the model itself.

        The names are paths of submodules and names of methods (None: all); ``known`` if calls of these, in this order, are
        known to make one call of the model.
        """
        self.ignore_parts()
        self._known = tuple(names or ()) if known else ()
        root = self._root
        methods = [name for name in dir(type(root)) if name.startswith("forward_") and callable(getattr(root, name))]
        self._methods = [name for name in methods if names is None or name in names]
        for name, part in root.named_modules():
            if not name or (names is not None and name not in names) or isinstance(part, (_Loss, Metric)):
                continue
            begin, end = Begin(self._recording, name), End(self._recording, name)
            self._part_handles += [
                part.register_forward_pre_hook(begin, with_kwargs=True, prepend=True),  # before a layer's input is read
                part.register_forward_hook(end, always_call=True),
            ]

    def ignore_parts(self) -> None:
        """Record only calls of the model itself."""
        for handle in self._part_handles:
            handle.remove()
        self._part_handles, self._methods = [], []

    @contextmanager
    def record(self) -> Iterator[list[Call]]:
        """Record the calls made in the block, in order and complete after it; parts called in turn are joined to one call."""
        recording = self._recording
        recording.calls, recording.parts, recording.active, self.refusal = [], [], True, None
        with self._recording_methods():
            try:
                yield recording.calls
                if recording.parts and not any(call.layers is not None for call in recording.calls):
                    self._join(recording.calls, recording.parts)
            finally:
                recording.quiet()
                recording.calls, recording.parts, recording.active, recording.announced = [], [], False, False

    def _join(self, calls: list[Call], parts: list[Call]) -> None:
        try:
            calls.append(join_parts(parts, self._known))
        except ValueError as reason:
            self.refusal = str(reason)

    @contextmanager
    def _recording_methods(self) -> Iterator[None]:
        """Wrap the instance's methods in the block, unless the model is compiled."""
        root = self._root
        if is_compiled(root, itself=True) or isinstance(root, torch.jit.ScriptModule):
            yield
            return
        before = {name: vars(root)[name] for name in ("forward", *self._methods) if name in vars(root)}
        for name in ("forward", *self._methods):
            vars(root)[name] = RecordedMethod(self._recording, getattr(root, name), "" if name == "forward" else name)
        try:
            yield
        finally:
            for name in ("forward", *self._methods):
                vars(root).pop(name, None)
            vars(root).update(before)

    def read(
        self, call: Call, mask: Tensor | None = None, *, dry: bool = False, reader: Inputs | None = None
    ) -> Outputs:
        """Return the model's outputs in a call, of which ``reader`` (if None, the call's inputs) must not have changed.

        If ``dry``, find layers that are overwritten in place; otherwise every layer must carry a gradient.
        """
        self._check_inputs(call, call.inputs if reader is None else reader)
        with self.capture.finding_overwrites() if dry else nullcontext():
            return self.capture.read(call.raw, call.layers or {}, mask, need_grad=not dry)

    def _check_inputs(self, call: Call, reader: Inputs) -> None:
        changed = [change for change in call.changed if change.concerns(reader)]
        if changed:
            raise ValueError(
                refusal(f"the student {self._recording.name}", changed, "the teacher would see what it left")
            )
        later = self.guard.changes(call.watch) if call.watch is not None else []
        later = [change for change in later if change.concerns(reader)]
        if later:
            raise RuntimeError(
                f"the inputs of the student were changed after it was called ({', '.join(map(str, later))}), and the teacher "
                "needs the same inputs: give the student a clone, model(x.clone())."
            )

    def remove(self) -> None:
        """Remove all hooks from the model."""
        self.ignore_parts()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.capture.remove()
