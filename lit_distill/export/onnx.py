"""ONNX, for servers: ``torch.onnx``, and the static int8 of ONNX Runtime, which fuses only its own pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.inference import Job
from lit_distill.export.quiet import quiet_tools
from lit_distill.export.target import Target
from lit_distill.export.tracing import trace
from lit_distill.utils.names import first_line

_OPERATOR = re.compile(r"(?:aten|prims|torchvision|quantized_decomposed)[.:]+[\w.]+")
_PROVIDERS = ["CPUExecutionProvider"]


class Onnx(Target):
    """Writes ONNX, and runs it in ONNX Runtime."""

    name = "onnx"
    suffix = ".onnx"
    precisions = ("float32", "int8")
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"

    def write(self, job: Job, path: Path) -> None:
        program = trace(job)
        floating = path.with_name("float32.onnx") if job.precision == "int8" else path
        with quiet_tools():
            try:
                made: Any = torch.onnx.export(
                    program,
                    (),
                    dynamo=True,
                    input_names=list(job.signature.inputs),
                    output_names=list(job.network.outputs),
                )
            except Exception as error:
                raise ValueError(_explained(error)) from error
            assert made is not None
            _name_sizes(made.model_proto, job, floating)
        if job.precision == "int8":
            with quiet_tools():
                _quantise(job, floating, path)

    def load(self, path: Path, signature: FileSignature) -> Exported:
        return _Session(path, signature)


class _Session(Exported):
    def __init__(self, path: Path, signature: FileSignature) -> None:
        import onnxruntime

        super().__init__(path, signature)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=_PROVIDERS)

    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = {name: value.numpy() for name, value in zip(self.signature.inputs, inputs, strict=True)}
        return tuple(torch.from_numpy(found) for found in self._session.run(list(self.signature.outputs), given))


class _Samples:
    """Hands calibration inputs to ONNX Runtime, as its ``CalibrationDataReader`` does."""

    def __init__(self, names: Sequence[str], batches: Sequence[tuple[Tensor, ...]]) -> None:
        self._given = iter([dict(zip(names, (one.numpy() for one in batch), strict=True)) for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._given, None)


def _quantise(job: Job, source: Path, path: Path) -> None:
    """Quantise weights per channel and activations by their ranges on the calibration data."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(_Samples)
    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared)
    batches = [part for batch in job.calibration for part in job.single(batch)]
    quantize_static(
        prepared,
        path,
        _Samples(job.signature.inputs, batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=not _multiplies_int8(),  # there, sums of two products overflow
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _multiplies_int8() -> bool:
    return bool(torch.cpu._is_vnni_supported())


def _name_sizes(model: Any, job: Job, path: Path) -> None:
    """Write a model with ``batch``, ``height`` and so on as the names of its dynamic sizes."""
    import onnx

    usual = {3: ("batch", "length"), 2: ("batch", "length"), 4: ("batch", "", "height", "width")}
    known: dict[str, str] = {}
    for value, tensor in zip(model.graph.input, job.example, strict=True):
        names = usual.get(tensor.dim(), ())
        for place, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                known.setdefault(size.dim_param, names[place] if place < len(names) else f"size_{place}")
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in known:
                size.dim_param = known[size.dim_param]
    del model.graph.value_info[:]  # which has the old names, and is inferred again
    onnx.save(model, path)


def _explained(error: BaseException) -> str:
    """Name the operator that ONNX lacks."""
    chain: list[str] = []
    inner: BaseException | None = error
    while inner is not None:
        chain.append(str(inner))
        inner = inner.__cause__ or inner.__context__
    missing = [text for text in chain if "No decompositions registered" in text or "No ONNX function found" in text]
    found = _OPERATOR.search(missing[0]) if missing else None
    if found is None:
        return f"the student cannot be written as ONNX: {first_line(error)}"
    return (
        f"the student cannot be written as ONNX, which has no operator for {found[0]}: compute it by other operations, or "
        "take another target, such as executorch or torch_export."
    )
