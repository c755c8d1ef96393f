"""Finds the parts of a network that are in eval mode and should not be."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_DROP_RATES = ("p", "drop_prob", "dropout")  # attribute names of dropout rates


def in_eval_mode(student: nn.Module) -> list[str]:
    """Return the names of the modules that are in eval mode, depend on the mode, and are not frozen."""
    parts = dict(student.named_modules())
    return [
        name or "itself"
        for name, part in parts.items()
        if not part.training and _depends_on_mode(part) and not _is_frozen(name, parts)
    ]


def _depends_on_mode(part: nn.Module) -> bool:
    if isinstance(part, _BatchNorm):
        return True
    rates = [getattr(part, name, None) for name in _DROP_RATES]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _is_frozen(name: str, parts: dict[str, nn.Module]) -> bool:
    while True:
        parameters = list(parts[name].parameters())
        if parameters or not name:
            return not any(parameter.requires_grad for parameter in parameters)
        name = name.rpartition(".")[0]
