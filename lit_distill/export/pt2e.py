"""What the targets of ExecuTorch share: ranges by PyTorch's export quantisation, and operators that are missing."""

from __future__ import annotations

import re
from typing import Any

import torch

from lit_distill.export.inference import LARGEST_BATCH, Job
from lit_distill.utils.names import first_line

_MISSING = (
    re.compile(r"Operator torch\._ops\.(\w+\.\w+)\S* is not in Core ATen opset"),
    re.compile(r"Missing out variants: \{(.*?)\}"),
)


def calibrate(prepared: Any, job: Job) -> None:
    """Let a prepared graph see the calibration data, in parts of sizes that it takes."""
    size = job.signature.batch or LARGEST_BATCH
    with torch.no_grad():
        for batch in job.calibration:
            for part in zip(*(torch.split(each, size) for each in batch), strict=True):
                prepared(*part)


def explained(error: BaseException) -> str:
    """Name the operators that ExecuTorch lacks."""
    text = str(error)
    found = [name for pattern in _MISSING for name in pattern.findall(text)]
    if found:
        return (
            f"the student cannot be written for ExecuTorch, which has no operator for {', '.join(found)}: compute it by other "
            "operations, or take another target, such as onnx."
        )
    return f"the student cannot be written for ExecuTorch: {first_line(error)}"
