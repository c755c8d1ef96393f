"""Reads a model's forward passes where somebody else calls it: the ``training_step`` of a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric

from lit_distill.batch.batch import Inputs
from lit_distill.batch.entries import mask_keys_for
from lit_distill.batch.signatures import signature_of
from lit_distill.batch.untouched import Guard, refusal
from lit_distill.capture.call import Call, in_words, inputs_of
from lit_distill.capture.capture import Capture, is_compiled
from lit_distill.capture.hooks import Store
from lit_distill.capture.parts import join_parts
from lit_distill.outputs import Outputs
from lit_distill.utils.compiling import uncompiled

WhichCall = int | Literal["all"] | None


def check_call(which: object) -> None:
    """Refuse what chooses no call.

    Raises:
        TypeError: It is neither a number nor ``all``.
    """
    if which is not None and which != "all" and (isinstance(which, bool) or not isinstance(which, int)):
        raise TypeError(f"call is {which!r}; give the number of a call (0 the first, -1 the last), or 'all'.")


def choose_calls(calls: list[Call], which: WhichCall, student: str, step: str = "training_step") -> list[Call]:
    """The calls of a step that count: those with gradients, and of several the ones that ``which`` says.

    Args:
        calls: A step's.
        which: 0 is the first, -1 the last, ``all`` all of them; None where there is one alone.
        student: The student's name, for messages.
        step: The step's name, likewise.

    Raises:
        ValueError: There are several and ``which`` is None, or there is no such call.
    """
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


@dataclass
class _Ear:
    """What the hooks write to: the calls of one step. It knows no module, so that copying one never leads back to it."""

    store: Store
    calls: list[Call]
    parts: list[Call]
    mask_keys: tuple[str, ...]
    guard: Guard
    name: str = ""  # of the model's class
    listening: bool = False
    announced: bool = False  # a call of the model's own ``__call__`` has begun, whose forward comes next
    under_way: Call | None = None

    def begin(self, into: list[Call], args: Any, kwargs: Any, name: str = "") -> Call:
        self.store.calls, self.store.recording = {}, True
        inputs = inputs_of(args, kwargs)
        watch = None if torch.compiler.is_compiling() else self.guard.watch({"inputs": inputs})
        call = Call(inputs, torch.is_grad_enabled(), watch, name, mask_keys=self.mask_keys)
        into.append(call)
        self.under_way = call
        return call

    def end(self, output: Any) -> None:
        call = self.under_way
        if call is not None:
            call.raw, call.layers = output, self.store.calls
            call.changed = tuple(self.guard.changes(call.watch)) if call.watch is not None else ()
        self.quiet()

    def quiet(self) -> None:
        self.store.calls, self.store.recording, self.under_way = {}, False, None


class _Begin:
    """A forward pre-hook that pickles and deep-copies with its model, unlike a closure."""

    def __init__(self, ear: _Ear) -> None:
        self.ear = ear

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.ear.listening:
            self.ear.begin(self.ear.calls, args, kwargs)
            self.ear.announced = True


class _End:
    """A forward hook, likewise."""

    def __init__(self, ear: _Ear) -> None:
        self.ear = ear

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.ear.listening:
            self.ear.end(output)


class _BeginPart:
    """A forward pre-hook of a part of the model; calls inside another call are of no interest."""

    def __init__(self, ear: _Ear, name: str) -> None:
        self.ear = ear
        self.name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.ear.listening and self.ear.under_way is None:
            self.ear.begin(self.ear.parts, args, kwargs, self.name)


class _EndPart(_BeginPart):
    """A forward hook of a part, which also runs where the part raised an error."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.ear.listening and self.ear.under_way is not None and self.ear.under_way.name == self.name:
            self.ear.end(output)


class _Method:
    """A method of the model that is called where ``__call__`` and its hooks are not: ``forward``, ``forward_features``."""

    def __init__(self, ear: _Ear, original: Callable[..., Any], part: str = "") -> None:
        self.__wrapped__ = original  # for whoever reads the signature
        self._ear = ear
        self._part = part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ear = self._ear
        expected, ear.announced = ear.announced and not self._part, False
        if expected or (self._part and ear.under_way is not None):
            try:
                return self.__wrapped__(*args, **kwargs)
            except BaseException as error:
                self._explain(error, args, kwargs)
                raise
        ear.begin(ear.parts if self._part else ear.calls, args, kwargs, self._part)
        try:
            output = self.__wrapped__(*args, **kwargs)
        except BaseException as error:
            ear.quiet()
            self._explain(error, args, kwargs)
            raise
        ear.end(output)
        return output

    def _explain(self, error: BaseException, args: Any, kwargs: Any) -> None:
        """Note on an error what the model was given."""
        if not self._part and not getattr(error, "__notes__", []):
            error.add_note(
                f"the student ({self._ear.name}) failed on what it was given, {in_words(inputs_of(args, kwargs))}"
            )


class Listener:
    """Reads the calls that somebody else makes of a captured model, by ``model(x)`` or ``model.forward(x)``.

    Args:
        capture: The model and its layers.

    Attributes:
        refusal: Why the parts that were called last cannot be read as one call; None where they can, or none were.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.refusal: str | None = None
        self.guard = Guard()
        self._ear = _Ear(capture.store, [], [], mask_keys_for(signature_of(capture.model)), self.guard)
        self._ear.name = type(self._root).__name__
        self._methods: list[str] = []
        self._known: tuple[str, ...] = ()
        root = self._root  # copies of a compiled model's wrapper lose its hooks
        self._handles = [
            root.register_forward_pre_hook(_Begin(self._ear), with_kwargs=True),
            root.register_forward_hook(_End(self._ear)),
        ]
        self._part_handles: list[Any] = []

    @property
    def _root(self) -> nn.Module:
        return uncompiled(self.capture.model)

    def hear_parts(self, names: Sequence[str] | None = None, known: bool = False) -> None:
        """Read the calls of the model's parts too, where the model itself is not called.

        Args:
            names: Paths of submodules and names of methods; all of them where None.
            known: Called in this order, they are known to make one call.
        """
        self.ignore_parts()
        self._known = tuple(names or ()) if known else ()
        root = self._root
        methods = [name for name in dir(type(root)) if name.startswith("forward_") and callable(getattr(root, name))]
        self._methods = [name for name in methods if names is None or name in names]
        for name, part in root.named_modules():
            if not name or (names is not None and name not in names) or isinstance(part, (_Loss, Metric)):
                continue
            begin, end = _BeginPart(self._ear, name), _EndPart(self._ear, name)
            self._part_handles += [
                part.register_forward_pre_hook(begin, with_kwargs=True, prepend=True),  # before a layer's input is read
                part.register_forward_hook(end, always_call=True),
            ]

    def ignore_parts(self) -> None:
        """Read the model's own calls alone."""
        for handle in self._part_handles:
            handle.remove()
        self._part_handles, self._methods = [], []

    @contextmanager
    def listen(self) -> Iterator[list[Call]]:
        """Read the calls made meanwhile.

        Yields:
            The calls in their order, whole once the block has ended; where the model was called part by part, that one call.
        """
        ear = self._ear
        ear.calls, ear.parts, ear.listening, self.refusal = [], [], True, None
        with self._hearing_methods():
            try:
                yield ear.calls
                if ear.parts and not any(call.layers is not None for call in ear.calls):
                    self._join(ear.calls, ear.parts)
            finally:
                ear.quiet()
                ear.calls, ear.parts, ear.listening, ear.announced = [], [], False, False

    def _join(self, calls: list[Call], parts: list[Call]) -> None:
        try:
            calls.append(join_parts(parts, self._known))
        except ValueError as reason:
            self.refusal = str(reason)

    @contextmanager
    def _hearing_methods(self) -> Iterator[None]:
        """Put ears around the instance's methods; a compiled model's are left alone, as it was compiled with its own."""
        root = self._root
        if is_compiled(root, itself=True) or isinstance(root, torch.jit.ScriptModule):
            yield
            return
        before = {name: vars(root)[name] for name in ("forward", *self._methods) if name in vars(root)}
        for name in ("forward", *self._methods):
            vars(root)[name] = _Method(self._ear, getattr(root, name), "" if name == "forward" else name)
        try:
            yield
        finally:
            for name in ("forward", *self._methods):
                vars(root).pop(name, None)
            vars(root).update(before)

    def read(
        self, call: Call, mask: Tensor | None = None, *, dry: bool = False, reader: Inputs | None = None
    ) -> Outputs:
        """The model's outputs in a call.

        Args:
            call: As ``listen`` gave it.
            mask: Passed on to the outputs.
            dry: Find layers that are overwritten in place; otherwise every layer must carry a gradient.
            reader: What the teacher is called with; the call's inputs if None.

        Raises:
            ValueError: The student changed what the teacher is called with.
            RuntimeError: Something else changed it after the call; or as ``Capture.run`` does.
        """
        self._check_inputs(call, call.inputs if reader is None else reader)
        with self.capture.finding_overwrites() if dry else nullcontext():
            return self.capture.read(call.raw, call.layers or {}, mask, need_grad=not dry)

    def _check_inputs(self, call: Call, reader: Inputs) -> None:
        changed = [change for change in call.changed if change.concerns(reader)]
        if changed:
            raise ValueError(refusal(f"the student {self._ear.name}", changed, "the teacher would see what it left"))
        later = self.guard.changes(call.watch) if call.watch is not None else []
        later = [change for change in later if change.concerns(reader)]
        if later:
            raise RuntimeError(
                f"the inputs of the student were changed after it was called ({', '.join(map(str, later))}), and the teacher "
                "has to see what the student saw: give the student a clone, model(x.clone())."
            )

    def remove(self) -> None:
        """Take all hooks off the model."""
        self.ignore_parts()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.capture.remove()
