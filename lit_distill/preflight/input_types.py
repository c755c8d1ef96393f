"""Inputs of a type that a network does not take: training would fail on them at the first batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import tensors_of


def explain_input_type(error: BaseException, inputs: Any, weights: Tensor) -> str | None:
    """Explain a failure on inputs of a wrong type, and what to do; None if the network failed for another reason.

    The dry run converts nothing that the fit does not: Lightning hands each batch to the network as it is.
    """
    if "type" not in str(error) or not isinstance(error, RuntimeError):
        return None
    found = [tensor.dtype for tensor in tensors_of(inputs)]
    floats = [dtype for dtype in found if dtype.is_floating_point]
    if not found or weights.dtype in floats:
        return None
    wrong = (floats or found)[0]
    name, own = (str(dtype).removeprefix("torch.") for dtype in (wrong, weights.dtype))
    if not floats:
        scale = " / 255" if wrong == torch.uint8 else ""
        remedy = f"Convert them in the data set (x.to(torch.{own}){scale}), or in the hook on_after_batch_transfer."
    else:
        remedy = f"Convert the data to {own} in the data set, or set the Trainer's precision."
    return f"the batch is of {name} and the student's weights of {own}, which it does not convert ({error}). {remedy}"
