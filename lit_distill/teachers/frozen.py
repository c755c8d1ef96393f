"""A teacher that never changes: the usual one."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lit_distill.batch.batch import BatchFormat, Inputs, tensors_of
from lit_distill.capture.capture import Capture
from lit_distill.capture.formats import (
    cast_floats,
    explaining_fixed_sizes,
    floating_type,
    freeze,
    moved,
    own_precision,
    set_mode,
    weights_mark,
)
from lit_distill.outputs import Outputs
from lit_distill.teachers.base import Teacher
from lit_distill.teachers.calibration import calibration_inputs
from lit_distill.teachers.runtime.options import TeacherRuntime
from lit_distill.teachers.runtime.prepared import Engine
from lit_distill.utils.arguments import as_object
from lit_distill.utils.notices import tell


class FrozenTeacher(Teacher):
    """A network in eval mode with no gradients, whatever anyone calls.

    It may be a program of ``torch.export``, TorchScript, quantised, or have weights of another type than the student's:
    inputs are cast to its type, and what narrower weights give is cast to the student's.

    Args:
        model: The network; it is put in eval mode and its parameters stop asking for gradients.
        runtime: How to run it on training batches; as it is where None. Evaluation always asks the network itself.
    """

    def __init__(self, model: nn.Module, runtime: TeacherRuntime | None = None) -> None:
        as_object("runtime", runtime, TeacherRuntime, "TeacherRuntime(precision='bf16')")
        super().__init__(freeze(model))
        self.runtime = self._given = runtime
        self._fallbacks: Sequence[TeacherRuntime] = ()
        self._engine: Engine | None = None
        self._stream: torch.cuda.Stream | None = None
        self._student: weakref.ref[nn.Module] | None = None

    def __call__(self, inputs: Inputs, mask: Tensor | None = None, *, calibrate: bool = False) -> Outputs:
        set_mode(self.model, False)
        engine = None if calibrate else self._ready_engine()
        if engine is not None:
            return self._as_the_students(engine(inputs, mask))
        # no_grad, not inference_mode: the outputs enter the student's graph.
        with torch.no_grad(), explaining_fixed_sizes(self.model), own_precision(self.model, inputs):
            outputs = self.capture.run(
                cast_floats(inputs, floating_type(self.model)),
                mask,
                calibrate=calibrate,
                stop_early=not self.needs_logits,
            )
        return self._as_the_students(outputs)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        set_mode(self.model, False)
        with torch.no_grad(), explaining_fixed_sizes(self.model), own_precision(self.model, inputs):
            outputs = self.capture.run(cast_floats(inputs, floating_type(self.model)), mask)
        return self._as_the_students(outputs)

    def serving(self, student: nn.Module) -> FrozenTeacher:
        other = self._student() if self._student is not None else None
        if other is None or other is student:
            self.runtime = self._given
            return self
        twin = copy.copy(self)  # of the network itself there is one
        twin._begin_anew()
        return twin

    def _begin_anew(self) -> None:
        """Forget whom it has served, in a copy that shares the network."""
        self.capture = Capture(self.model, owner="teacher")
        self.runtime, self._fallbacks, self._engine, self._student = self._given, (), None, None

    def bind(self, student: nn.Module) -> None:
        self._student = weakref.ref(student)

    def _as_the_students(self, outputs: Outputs) -> Outputs:
        """What weights of another type give, in the student's type; float32 beside a half student stays as it is."""
        student = self._student() if self._student is not None else None
        wanted = floating_type(student) if student is not None else None
        own = floating_type(self.model)
        if wanted is None or own is None or own == wanted or (own == torch.float32 and wanted.itemsize < own.itemsize):
            return outputs
        features = cast_floats(outputs.features, wanted)
        return replace(outputs, logits=cast_floats(outputs.logits, wanted), features=features)

    # The prepared copy ---------------------------------------------------------------------------

    def prefer(self, runtimes: Sequence[TeacherRuntime]) -> None:
        """Take the first of these runtimes that the network can be run in, once training batches are there.

        Args:
            runtimes: The best first; the last must suit every network.
        """
        self.runtime, self._fallbacks, self._engine = runtimes[0], tuple(runtimes[1:]), None

    def prepare(self, trainer: Trainer, read: Callable[[Any], Inputs]) -> None:
        """Make the copy that the runtime asks for, calibrated on training batches where it needs them.

        Raises:
            ValueError: The network cannot be run so.
        """
        if self.runtime is not None:
            self.prepare_runtime(lambda: calibration_inputs(trainer, read))

    def prepare_runtime(self, samples: Callable[[], Sequence[Inputs]]) -> None:
        """Make the copy that the runtime asks for, in place of any made before.

        Args:
            samples: Reads a few training batches' inputs; called where the runtime is calibrated.

        Raises:
            ValueError: The network cannot be run so.
        """
        while self.runtime is not None:
            try:
                with isolate_rng():  # making quantised layers draws weights
                    batches = samples() if self.runtime.calibrated else ()
                    self._engine = Engine(self.capture, self.runtime, self.needs_logits, batches)
                return
            except ValueError:
                if not self._fallbacks:
                    raise
                self.runtime, self._fallbacks = self._fallbacks[0], self._fallbacks[1:]

    def _ready_engine(self) -> Engine | None:
        """The copy, made anew where the weights have changed or moved; None where there is none or it waits for batches."""
        if self.runtime is None or (self._engine is None and self.runtime.calibrated):
            return None
        if self._engine is not None and self._engine.weights == weights_mark(self.model):
            return self._engine
        if self.runtime.calibrated:
            self._engine = None
            tell(
                f"the teacher's weights changed during the fit, and its copy in {self.runtime.precision!r} was calibrated "
                "for those before: until the next fit the network itself is asked."
            )
        else:
            self.prepare_runtime(tuple)
        return self._engine

    def observe(self, layers: Iterable[str], format_: BatchFormat | None = None) -> None:
        super().observe(layers, format_)
        self._engine = None

    # Beside the student --------------------------------------------------------------------------

    def ask(self, inputs: Inputs, mask: Tensor | None = None) -> Callable[[], Outputs]:
        if self.runtime is None or not self.runtime.own_stream:
            return super().ask(inputs, mask)
        device = next((tensor.device for tensor in tensors_of(inputs)), torch.device("cpu"))
        return self._ask_beside(inputs, mask, device) if device.type == "cuda" else super().ask(inputs, mask)

    def _ask_beside(self, inputs: Inputs, mask: Tensor | None, device: torch.device) -> Callable[[], Outputs]:
        if self._stream is None or self._stream.device != device:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(device))  # the inputs must be there
        with torch.cuda.stream(stream):
            outputs = self(inputs, mask)
        for tensor in tensors_of(inputs):
            tensor.record_stream(stream)  # not freed while the teacher reads it

        def wait() -> Outputs:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            for tensor in outputs.tensors():
                tensor.record_stream(current)  # not freed while the criteria read it
            return outputs

        return wait

    # Copies and devices --------------------------------------------------------------------------

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the student to another device; the network keeps its type, as it is the user's own."""
        self.model._apply(moved(fn))  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        # A copy of the LightningModule (weight averaging makes one) shares the one teacher.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_engine": None, "_stream": None, "_student": None}
