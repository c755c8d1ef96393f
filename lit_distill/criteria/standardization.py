"""Logit standardization: Sun, Ren, Li, Wang and Cao 2024, "Logit Standardization in Knowledge Distillation", CVPR."""

from __future__ import annotations

from torch import Tensor

_EPSILON = 1e-7  # the authors'


def standardize(logits: Tensor) -> Tensor:
    """``(z - mean_c z) / (std_c z + 1e-7)``: what a student has to match is then a shape, at no particular scale.

    ``std`` is the unbiased one, as in the authors' code. The result does not change with ``z -> a z + b``, ``a > 0``, so
    nothing drives the scale of the student's own logits: keep the labels beside it. Its gradient goes with ``1 / std``.

    A row that is all alike (a head that starts at zero) becomes zeros and gets no gradient; the formula's would be 1e7
    times its usual size there.

    Args:
        logits: ``[..., C]``, classes last, in float32 or wider.

    Raises:
        ValueError: There is one class alone.
    """
    if logits.shape[-1] < 2:
        raise ValueError("logits of a single class cannot be standardized; set standardize to False.")
    alike = logits.amax(-1, keepdim=True) == logits.amin(-1, keepdim=True)
    centred = (logits - logits.mean(-1, keepdim=True)).masked_fill(alike, 0)
    return centred / (centred.std(-1, keepdim=True) + _EPSILON)
