"""ExecuTorch for Cortex-M (beta): int8 ``.pte`` files with CMSIS-NN's kernels, for microcontrollers."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.inference import Job
from lit_distill.export.pt2e import calibrate, explained
from lit_distill.export.quiet import quiet_tools
from lit_distill.export.target import Compared, Target
from lit_distill.export.tracing import trace

CPU = "Cortex-M55"  # ExecuTorch's default, for which it plans the kernels' scratch memory
_KERNELS = "cortex_m::"
_VIEWS = ("aten::view_copy", "aten::squeeze_copy", "aten::unsqueeze_copy", "executorch_prim::")


class CortexM(Target):
    """Lowers a student to CMSIS-NN's kernels, and reads back which operators the file has."""

    name = "cortex-m"
    suffix = ".pte"
    precisions = ("int8",)
    dynamic = ()
    packages = ("executorch", "torchao", "tosa_serializer")
    extra = "cortex-m"

    def write(self, job: Job, path: Path) -> Compared:
        with quiet_tools():
            inner = _channels_last(job)
            program = trace(inner)
            try:
                graph = _quantised(program, inner)
                path.write_bytes(_lowered(graph, inner))
            except Exception as error:
                raise ValueError(explained(error)) from error
        return Compared(_Graph(graph, path, job.signature), "quantised graph before lowering", _said(path))

    def load(self, path: Path, signature: FileSignature) -> Exported:
        return _Unrunnable(path, signature)


class _Unrunnable(Exported):
    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        raise ValueError(f"{self.path.name} is for a microcontroller ({CPU}), and nothing here runs it.")


class _Graph(Exported):
    """The quantised graph that the file is lowered from."""

    def __init__(self, graph: Any, path: Path, signature: FileSignature) -> None:
        super().__init__(path, signature)
        self._graph = graph

    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(self._graph(*(_rearranged(one) for one in inputs)))


def _rearranged(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _channels_last(job: Job) -> Job:
    """Return a job whose images, and weights of convolutions, are in the layout that CMSIS-NN computes in."""
    network = copy.deepcopy(job.network)
    network.to(memory_format=torch.channels_last)
    calibration = [tuple(_rearranged(one) for one in batch) for batch in job.calibration]
    return replace(
        job, network=network, example=tuple(_rearranged(one) for one in job.example), calibration=calibration
    )


def _quantised(program: Any, job: Job) -> Any:
    from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared: Any = prepare_pt2e(program.module(check_guards=False), CortexMQuantizer())
    calibrate(prepared, job)
    return convert_pt2e(prepared)


def _lowered(graph: Any, job: Job) -> bytes:
    from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
    from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
    from executorch.exir import ExecutorchBackendConfig, to_edge

    edge = to_edge(torch.export.export(graph, job.example), compile_config=cortex_m_edge_compile_config())
    edge._edge_programs["forward"] = CortexMPassManager(edge.exported_program()).transform()
    return bytes(edge.to_executorch(config=ExecutorchBackendConfig(extract_delegate_segments=False)).buffer)


def _said(path: Path) -> dict[str, Any]:
    """Read a file back, and say which operators it has: CMSIS-NN's, views, and others, which run slowly or not at all."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    plan = deserialize_pte_binary(path.read_bytes()).program.execution_plan[0]
    calls = [one.instr_args for chain in plan.chains for one in chain.instructions]
    names = [plan.operators[call.op_index].name for call in calls if hasattr(call, "op_index")]
    found = Counter(name for name in names if not name.startswith(_VIEWS))
    return {
        "cpu": CPU,
        "operators": dict(found),
        "others": sorted(name for name in found if not name.startswith(_KERNELS)),
        "working_memory": sum(plan.non_const_buffer_sizes[1:]),
        "memory_format": "channels_last",
    }
