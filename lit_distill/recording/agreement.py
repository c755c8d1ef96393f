"""Compares recorded outputs with those of the live teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.capture.formats import floating_type
from lit_distill.outputs import Outputs
from lit_distill.recording.encoding import Formats

_OF_OTHER_SAMPLES = 0.1  # of the distance between two samples' outputs
_OF_INEXACT = 0.25
_MOST_INEXACT = 0.1
_FEW_BITS = 1e-2  # bfloat16 keeps 8 bits
_ROUNDING = 1e-4  # of an output's norm
_ROUNDING_ELSEWHERE = 5e-3  # than on the CPU: convolutions in TF32
_HALF = 2.0**-10  # of float16's largest steps, relative
_LEVELS = 255


def disagreeing(recorded: Outputs, live: Outputs, formats: Formats, exact: bool) -> Tensor:
    """Return the samples whose recorded outputs are not those of the live teacher, True in ``[B]``.

    An exact teacher repeats its outputs up to rounding, so that one sample is enough whose outputs lie a tenth of the way to
    those of another sample. One that computes in few bits may deviate by itself: by a quarter of the outputs' own spread, and
    by more in a tenth of the samples. ``live`` was stored and read like ``recorded``.
    """
    pairs = [(recorded.logits, live.logits, formats.logits)] if recorded.logits.numel() else []
    pairs += [(feature, live.features[name], formats.features) for name, feature in recorded.features.items()]
    far = torch.zeros(len(pairs[0][0]), dtype=torch.bool, device=pairs[0][0].device)
    for one, other, stored in pairs:
        a, b = (part.float().flatten(1) if part.dim() > 1 else part.float().unsqueeze(1) for part in (one, other))
        far |= (a - b).norm(dim=1) > (_allowed(b, stored) if exact else _allowed_inexact(b))
    return far if exact or float(far.float().mean()) > _MOST_INEXACT else torch.zeros_like(far)


def is_exact(model: nn.Module, device: torch.device) -> bool:
    """Return True if a network computes in float32 or wider here, so that it repeats its outputs up to rounding."""
    wide = floating_type(model) in (None, torch.float32, torch.float64)
    return wide and not torch.is_autocast_enabled(device.type) and torch.get_float32_matmul_precision() == "highest"


def _allowed(values: Tensor, stored: str) -> Tensor:
    on_cpu = values.device.type == "cpu"
    rounding = _ROUNDING if on_cpu else _ROUNDING_ELSEWHERE
    # Rounding moves a stored value to the next step where it lies between two: few of them on the CPU.
    moved = 1 + values.shape[1] ** 0.5 * (0.05 if on_cpu else 1)
    allowed: Tensor = _OF_OTHER_SAMPLES * _apart(values) + rounding * values.norm(dim=1) + moved * _step(values, stored)
    return allowed + 1e-6


def _step(values: Tensor, stored: str) -> Tensor:
    """Return the distance of two neighbouring values that can be stored."""
    if stored == "int8":
        return (values.amax(1) - values.amin(1)) / _LEVELS
    return values.abs().amax(1) * (0.0 if stored == "float32" else _HALF)


def _allowed_inexact(values: Tensor) -> Tensor:
    norms = values.norm(dim=1)
    spread = (values - values.mean(1, keepdim=True)).norm(dim=1) + 1e-3 * norms + 1e-6
    allowed: Tensor = _OF_INEXACT * torch.maximum(spread, _apart(values).expand_as(spread)) + _FEW_BITS * norms
    return allowed


def _apart(values: Tensor) -> Tensor:
    """Return how far a sample's outputs usually are from the batch's mean."""
    apart: Tensor = (values - values.mean(0)).norm(dim=1).square().mean().sqrt()
    return apart
