"""A copy of a frozen network, prepared for a ``TeacherRuntime``, that runs on training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, count_samples, tensors_of
from lit_distill.capture.capture import Capture
from lit_distill.capture.formats import floating_type, format_of, map_tensors, weights_mark
from lit_distill.outputs import Outputs
from lit_distill.teachers.runtime.folding import fold_batch_norm
from lit_distill.teachers.runtime.options import TeacherRuntime
from lit_distill.teachers.runtime.quantised import quantise_dynamically, static_int8
from lit_distill.utils.compiling import SteadySize, compile_in_place
from lit_distill.utils.copying import copied

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32, "int8_dynamic": torch.float32}


class PreparedModel:
    """Computes a frozen network's outputs with a copy of it.

    Args:
        capture: The network and its layers, after a dry run; it does not change.
        runtime: How to run the copy.
        needs_logits: The logits are read. If not, the forward pass ends at the last captured layer, unless the copy is
            compiled.
        samples: Training batches to calibrate on, for ``int8`` only.
    """

    def __init__(
        self, capture: Capture, runtime: TeacherRuntime, needs_logits: bool, samples: Sequence[Inputs]
    ) -> None:
        self.runtime = runtime
        self.weights = weights_mark(capture.model)
        self._type = _TYPES.get(runtime.precision, floating_type(capture.model))
        self._steady = SteadySize() if runtime.compile else None
        twin = copied(capture)
        twin.restore()  # hooks that read its own model
        _prepare(twin, runtime)
        if runtime.precision == "int8":
            self._read = static_int8(twin, [self._cast(batch) for batch in samples], needs_logits)
        else:
            self._read = partial(twin.run, stop_early=not needs_logits and not runtime.compile)

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        """Return the outputs for a batch, without gradients."""
        device = next((tensor.device for tensor in tensors_of(inputs)), torch.device("cpu"))
        follows = self.runtime.precision == "32"  # the Trainer's autocast, which is no matter of the others
        with torch.no_grad(), nullcontext() if follows else torch.autocast(device.type, enabled=False):
            parts = [self._run(part) for part in _split(self._cast(inputs), self.runtime.batch_size)]
            outputs = _join(parts) if len(parts) > 1 else parts[0][1]
        logits = outputs.logits if follows or not outputs.has_logits else outputs.logits.float()
        return Outputs(logits, outputs.features, mask)

    def _run(self, inputs: Inputs) -> tuple[int, Outputs]:
        size = count_samples(inputs) or 0
        with nullcontext() if self._steady is None else self._steady.context(size):
            return size, self._read(inputs)

    def _cast(self, inputs: Inputs) -> Inputs:
        def cast(tensor: Tensor) -> Tensor:
            if self._type is not None and tensor.is_floating_point():
                tensor = tensor.to(self._type)
            images = self.runtime.channels_last and tensor.dim() == 4
            return tensor.contiguous(memory_format=torch.channels_last) if images else tensor

        cast_inputs: Inputs = map_tensors(cast, inputs)
        return cast_inputs


def _prepare(capture: Capture, runtime: TeacherRuntime) -> None:
    model = capture.model
    _refuse_other_formats(model, runtime)
    if runtime.fold_batch_norm:
        fold_batch_norm(model)  # before the type narrows
    dtype = _TYPES.get(runtime.precision)
    if dtype is not None:
        model.to(dtype)
    if runtime.precision == "int8_dynamic":
        capture.remove()  # the replacing layers would get half of each hook
        quantise_dynamically(model)
        capture.restore()
    if runtime.channels_last:
        model.to(memory_format=torch.channels_last)
    if runtime.compile:
        compile_in_place(model)


def _refuse_other_formats(model: nn.Module, runtime: TeacherRuntime) -> None:
    kind = format_of(model)
    rebuilt = runtime.precision != "32" or runtime.compile or runtime.fold_batch_norm or runtime.channels_last
    if kind is not None and rebuilt:
        raise ValueError(
            f"the teacher is {kind}, whose graph is made already: it runs only in precision '32' without compile, "
            "channels_last and fold_batch_norm. Prepare the network before you export it, or give the Python network."
        )


def _split(inputs: Inputs, most: int | None) -> Iterator[Inputs]:
    size = count_samples(inputs) or 0
    if most is None or size <= most:
        yield inputs
        return
    if any(tensor.dim() == 0 or len(tensor) != size for tensor in tensors_of(inputs)):
        shapes = [list(tensor.shape) for tensor in tensors_of(inputs)]
        raise ValueError(
            f"the teacher's batch_size is {most}, and a batch cannot be split: not every input has the {size} samples "
            f"first (their shapes are {shapes}). Leave batch_size None."
        )
    for start in range(0, size, most):
        yield map_tensors(itemgetter(slice(start, start + most)), inputs)


def _join(parts: Sequence[tuple[int, Outputs]]) -> Outputs:
    def cat(name: str, tensors: list[Tensor]) -> Tensor:
        found = [len(tensor) if tensor.dim() else 0 for tensor in tensors]
        if found != [size for size, _ in parts]:
            raise ValueError(
                f"the teacher's batch_size is set, and {name} cannot be joined: its first dimension is {found}, and the "
                f"parts have {[size for size, _ in parts]} samples. Leave batch_size None."
            )
        return torch.cat(tensors)

    first = parts[0][1]
    features = {layer: cat(f"layer {layer!r}", [part.features[layer] for _, part in parts]) for layer in first.features}
    logits = first.logits
    if first.has_logits and logits.numel():
        logits = cat("the logits", [part.logits for _, part in parts])
    return Outputs(logits, features)
