"""Logit standardization: Sun, Ren, Li, Wang and Cao 2024, "Logit Standardization in Knowledge Distillation", CVPR."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7  # the authors'
_ROUNDING = 8.0  # differences of so many roundings are none


def standardize(logits: Tensor) -> Tensor:
    """``(z - mean_c z) / (std_c z + 1e-7)``: what a student has to match is then a shape, at no particular scale.

    ``std`` is the unbiased one, as in the authors' code. The result does not change with ``z -> a z + b``, ``a > 0``, so
    nothing drives the scale of the student's own logits: keep the labels beside it. Its gradient goes with ``1 / std``.

    A row that is all alike to rounding (a head that starts at zero) becomes zeros, and its gradient is that of the centred row:
    so the head begins to learn. The formula's would be 1e7 times its usual size there.

    Args:
        logits: ``[..., C]``, classes last, in float32 or wider.

    Raises:
        ValueError: There is one class alone.
    """
    if logits.shape[-1] < 2:
        raise ValueError("logits of a single class cannot be standardized; set standardize to False.")
    centred = logits - logits.mean(-1, keepdim=True)
    largest = logits.abs().amax(-1, keepdim=True)
    spread = logits.amax(-1, keepdim=True) - logits.amin(-1, keepdim=True)
    alike = spread <= _ROUNDING * torch.finfo(logits.dtype).eps * largest
    # The deviation has no gradient at a row of zeros; PyTorch's would be NaN.
    deviation = torch.where(alike, 0, centred).std(-1, keepdim=True) + _EPSILON
    return torch.where(alike, centred - centred.detach(), centred / deviation)
