"""ExecuTorch, for phones: ``.pte`` with XNNPACK's kernels, int8 by PyTorch's export quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.inference import Job
from lit_distill.export.pt2e import calibrate, explained
from lit_distill.export.quiet import quiet_tools
from lit_distill.export.target import Target
from lit_distill.export.tracing import dynamic_shapes, trace


class ExecuTorch(Target):
    """Writes a program of ExecuTorch, and runs it in the runtime that phones have."""

    name = "executorch"
    suffix = ".pte"
    precisions = ("float32", "int8")
    plans_memory = True
    packages = ("executorch", "torchao")
    extra = "executorch"

    def write(self, job: Job, path: Path) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        with quiet_tools(), _usual_convolutions():
            program = trace(job)
            try:
                if job.precision == "int8":
                    program = _quantised(program, job)
                lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
                path.write_bytes(lowered.to_executorch().buffer)
            except Exception as error:
                raise ValueError(explained(error)) from error

    def load(self, path: Path, signature: FileSignature) -> Exported:
        return _Method(path, signature)


class _Method(Exported):
    def __init__(self, path: Path, signature: FileSignature) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        super().__init__(path, signature)
        if portable_lib._threadpool_get_thread_count() != 1:  # these have no public name
            portable_lib._unsafe_reset_threadpool(1)
        self._program = Runtime.get().load_program(path.read_bytes())  # kept: the method lives in it
        try:
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            raise ValueError(_failed(path, error)) from error

    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        try:
            return tuple(self._method.execute([one.contiguous() for one in inputs]))
        except RuntimeError as error:
            raise ValueError(_failed(self.path, error)) from error


def _failed(path: Path, error: RuntimeError) -> str:
    return (
        f"{path.name} fails in ExecuTorch's runtime: {error}; the lines above name the operator. Compute it by others, "
        "or take another target, such as onnx."
    )


def _quantised(program: ExportedProgram, job: Job) -> ExportedProgram:
    """Return a program in int8, with weights per channel and the ranges of the calibration data."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared: Any = prepare_pt2e(program.module(), quantizer)
    calibrate(prepared, job)
    shapes = dynamic_shapes(job)
    by_place = shapes["inputs"] if shapes is not None else None
    return torch.export.export(convert_pt2e(prepared), job.example, dynamic_shapes=by_place)


@contextmanager
def _usual_convolutions() -> Iterator[None]:
    """Hide two kernels of convolutions, as tracing would limit a dynamic batch to the sizes that they are for."""
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield
