"""Logit standardization (Sun et al. 2024, CVPR, https://arxiv.org/abs/2403.01427)."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7  # the authors'
_ROUNDING = 8.0  # smaller differences, in units of rounding, count as 0


def standardize(logits: Tensor) -> Tensor:
    """Return ``(z - mean_c z) / (std_c z + 1e-7)``, so that a student has to match a shape at no particular scale.

    ``std`` is the unbiased one, as in the authors' code. The result does not change with ``z -> a z + b``, ``a > 0``, so
    nothing drives the scale of the student's own logits: train on labels as well. The gradient scales with ``1 / std``.

    A row whose entries are equal to rounding (a head that starts at zero) becomes zeros, with the gradient of the centred
    row, so that the head begins to learn. The formula's own gradient would be 1e7 times its usual size there.

    Raises:
        ValueError: There is only one class.
    """
    if logits.shape[-1] < 2:
        raise ValueError("logits of a single class cannot be standardized; set standardize to False.")
    centred = logits - logits.mean(-1, keepdim=True)
    largest = logits.abs().amax(-1, keepdim=True)
    spread = logits.amax(-1, keepdim=True) - logits.amin(-1, keepdim=True)
    alike = spread <= _ROUNDING * torch.finfo(logits.dtype).eps * largest
    # The deviation gets no gradient at a row of zeros, where PyTorch's would be NaN.
    deviation = torch.where(alike, 0, centred).std(-1, keepdim=True) + _EPSILON
    return torch.where(alike, centred - centred.detach(), centred / deviation)
