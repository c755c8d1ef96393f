"""The usual teacher: a network that never changes."""

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
    format_of,
    freeze,
    has_packed_weights,
    moved,
    own_precision,
    set_mode,
    weights_mark,
)
from lit_distill.outputs import Outputs
from lit_distill.teachers.base import Teacher
from lit_distill.teachers.calibration import calibration_inputs
from lit_distill.teachers.runtime.options import TeacherRuntime
from lit_distill.teachers.runtime.prepared import PreparedModel
from lit_distill.utils.arguments import as_object
from lit_distill.utils.notices import warn

_NOT_CAST = (torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)  # inputs of a network in float32


class FrozenTeacher(Teacher):
    """A network that stays in eval mode, without gradients.

    It may be a program of ``torch.export``, TorchScript or quantised, and its weights may have another type than the
    student's: inputs are cast to its type, and outputs of narrower weights to the student's.

    Args:
        model: The network; it is put in eval mode, and its parameters no longer require gradients.
        runtime: How to run it on training batches; unchanged if None. Evaluation always runs the network itself.

    Raises:
        TypeError: ``model`` is not a network, or ``runtime`` not a ``TeacherRuntime``.

    Examples:
        >>> teacher = FrozenTeacher(nn.Linear(4, 3))
        >>> teacher.predict(torch.zeros(2, 4)).logits.shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module, runtime: TeacherRuntime | None = None) -> None:
        as_object("runtime", runtime, TeacherRuntime, "TeacherRuntime(precision='bf16')")
        super().__init__(freeze(model))
        self.runtime = self._given = runtime
        self._fallbacks: Sequence[TeacherRuntime] = ()
        self._prepared: PreparedModel | None = None
        self._stream: torch.cuda.Stream | None = None
        self._fetched: Outputs | None = None  # of the present batch, computed on the teacher's own stream
        self._is_plain: bool | None = None  # found out in the first batch
        self._student: weakref.ref[nn.Module] | None = None

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        if self._fetched is not None:
            return self._wait_for_fetched()
        set_mode(self.model, False)
        if self.runtime is not None and not self.capture.finds_overwrites:
            prepared = self._ready_copy()
            if prepared is not None:
                return self._in_student_type(prepared(inputs, mask))
        if self._is_plain is None:
            self._is_plain = self._needs_no_cast()
        if self._is_plain and isinstance(inputs, Tensor) and inputs.dtype in _NOT_CAST:
            with torch.no_grad():  # not inference_mode: the outputs enter the student's graph
                return self.capture.run(inputs, mask, stop_early=not self.needs_logits)
        return self._run_in_own_type(inputs, mask, stop_early=not self.needs_logits)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        set_mode(self.model, False)
        return self._run_in_own_type(inputs, mask)

    def _run_in_own_type(self, inputs: Inputs, mask: Tensor | None, stop_early: bool = False) -> Outputs:
        own = floating_type(self.model)
        with torch.no_grad(), explaining_fixed_sizes(self.model), own_precision(self.model, inputs):
            outputs = self.capture.run(cast_floats(inputs, own), mask, stop_early=stop_early)
        return self._in_student_type(outputs)

    def _needs_no_cast(self) -> bool:
        """Return True if the network and its student are plain modules in float32."""
        student = self._student() if self._student is not None else None
        types = {floating_type(network) for network in (self.model, student) if network is not None}
        return types == {torch.float32} and not has_packed_weights(self.model) and format_of(self.model) is None

    def for_student(self, student: nn.Module) -> FrozenTeacher:
        other = self._student() if self._student is not None else None
        if other is None or other is student:
            self.runtime = self._given
            return self
        twin = copy.copy(self)  # shares the network
        twin._reset()
        return twin

    def _reset(self) -> None:
        """Drop the state of another student, in a copy that shares the network."""
        self.capture = Capture(self.model, owner="teacher")
        self.runtime, self._fallbacks, self._prepared, self._student = self._given, (), None, None
        self._fetched = self._is_plain = None

    def set_student(self, student: nn.Module) -> None:
        self._student, self._is_plain = weakref.ref(student), None

    def _in_student_type(self, outputs: Outputs) -> Outputs:
        """Cast outputs to the student's type; float32 outputs for a student in half precision do not change."""
        student = self._student() if self._student is not None else None
        wanted = floating_type(student) if student is not None else None
        own = floating_type(self.model)
        if wanted is None or own is None or own == wanted or (own == torch.float32 and wanted.itemsize < own.itemsize):
            return outputs
        features = cast_floats(outputs.features, wanted)
        return replace(outputs, logits=cast_floats(outputs.logits, wanted), features=features)

    # The prepared copy ---------------------------------------------------------------------------

    def prefer(self, runtimes: Sequence[TeacherRuntime]) -> None:
        """Use the first of several runtimes, fastest first, that works; the last must work for every network.

        What has no weights, such as a function, runs as it is.
        """
        if floating_type(self.model) is None:
            return
        self.runtime, self._fallbacks, self._prepared = runtimes[0], tuple(runtimes[1:]), None

    def on_train_start(self, trainer: Trainer, read_inputs: Callable[[Any], Inputs]) -> None:
        """Prepare the runtime's copy, calibrated on training batches if needed.

        Raises:
            ValueError: The network does not work with the runtime.
        """
        self._fetched = self._is_plain = None
        if self.runtime is not None:
            self.prepare_runtime(lambda: calibration_inputs(trainer, read_inputs))

    def prepare_runtime(self, samples: Callable[[], Sequence[Inputs]]) -> None:
        """Prepare the runtime's copy again.

        Raises:
            ValueError: The network does not work with the runtime.
        """
        while self.runtime is not None:
            try:
                with isolate_rng():  # making quantised layers draws weights
                    batches = samples() if self.runtime.calibrated else ()
                    self._prepared = PreparedModel(self.capture, self.runtime, self.needs_logits, batches)
                return
            except ValueError:
                if not self._fallbacks:
                    raise
                self.runtime, self._fallbacks = self._fallbacks[0], self._fallbacks[1:]

    def _ready_copy(self) -> PreparedModel | None:
        """Return the copy, prepared again if the weights have changed or moved; None if it waits for batches."""
        assert self.runtime is not None
        if self._prepared is None and self.runtime.calibrated:
            return None
        if self._prepared is not None and self._prepared.weights == weights_mark(self.model):
            return self._prepared
        if self.runtime.calibrated:
            self._prepared = None
            warn(
                f"the teacher's weights changed during the fit, and its copy in {self.runtime.precision!r} was calibrated "
                "for the old ones: until the next fit the network itself runs."
            )
        else:
            self.prepare_runtime(tuple)
        return self._prepared

    def capture_layers(self, layers: Iterable[str], format_: BatchFormat | None = None) -> None:
        super().capture_layers(layers, format_)
        self._prepared = self._is_plain = None

    # At the same time as the student -------------------------------------------------------------

    def prefetch(self, inputs: Inputs, mask: Tensor | None = None) -> None:
        """Start on the teacher's own stream, if the runtime has one and the inputs are on CUDA."""
        self._fetched = None
        if self.runtime is None or not self.runtime.own_stream:
            return
        device = next((tensor.device for tensor in tensors_of(inputs)), torch.device("cpu"))
        if device.type != "cuda":
            return
        if self._stream is None or self._stream.device != device:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))  # the inputs must be there
        with torch.cuda.stream(self._stream):
            outputs = self(inputs, mask)
        for tensor in tensors_of(inputs):
            tensor.record_stream(self._stream)  # not freed while the teacher reads it
        self._fetched = outputs

    def _wait_for_fetched(self) -> Outputs:
        outputs, self._fetched = self._fetched, None
        assert outputs is not None
        assert self._stream is not None
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        for tensor in outputs.tensors():
            tensor.record_stream(current)  # not freed while the criteria read it
        return outputs

    # Copies and devices --------------------------------------------------------------------------

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the student to another device; the network keeps its type."""
        self._is_plain = None
        self.model._apply(moved(fn))  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        # A copy of the LightningModule (weight averaging makes one) shares the teacher.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_prepared": None, "_stream": None, "_fetched": None, "_student": None}
