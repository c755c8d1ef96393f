"""A cache of a frozen teacher's outputs for evaluation batches that do not change."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import Inputs
from lit_distill.utils.bits import value_digest

Place = tuple[str, int, int]


@dataclass
class _Entry:
    inputs: str  # their digest
    weights: Hashable
    logits: Tensor


class TeacherCache:
    """A frozen teacher's logits for evaluation batches that do not change: computed once, not each epoch.

    A batch is recognised by its place, by a digest of its inputs, and by the teacher's weights; if one differs, the teacher
    runs again. Inputs with objects of unknown content are not cached.

    Args:
        limit: Most bytes to keep; later batches are computed each time.
    """

    def __init__(self, limit: int = 256 * 2**20) -> None:
        self.limit = limit
        self._batches: dict[Place, _Entry] = {}
        self._bytes = 0

    def recall(self, place: Place, inputs: Inputs, weights: Hashable = None) -> Tensor | None:
        """Return the logits for a batch, or None if another batch or other weights were seen at its place."""
        known = self._batches.get(place)
        if known is None or known.weights != weights:
            return None
        return known.logits if known.inputs == _digest(inputs) else None

    def keep(self, place: Place, inputs: Inputs, logits: Tensor, weights: Hashable = None) -> None:
        """Keep the logits of a batch, if there is room; ``weights`` marks the teacher's present weights."""
        size = logits.numel() * logits.element_size()
        known = self._batches.pop(place, None)
        if known is not None:
            self._bytes -= known.logits.numel() * known.logits.element_size()
        digest = _digest(inputs) if self._bytes + size <= self.limit else None
        if digest is not None:
            self._batches[place] = _Entry(digest, weights, logits.detach().cpu().clone())
            self._bytes += size

    def forget(self) -> None:
        """Empty the cache."""
        self._batches.clear()
        self._bytes = 0


class _Unknown(Exception):
    """Raised at an object of unknown content."""


def _digest(inputs: Inputs) -> str | None:
    """Return a digest of everything in the inputs; None if something has unknown content."""
    try:
        return value_digest(_known(inputs))
    except _Unknown:
        return None


def _known(value: Any) -> Any:
    """Return tensors and plain values in lists and dicts, as ``value_digest`` reads them."""
    if isinstance(value, Mapping):
        return {key: _known(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_known(entry) for entry in value]
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested and not value.is_quantized:
        return value
    if value is None or isinstance(value, (str, bytes, bool, int, float, complex, torch.dtype)):
        return value
    if isinstance(value, torch.device):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {field.name: _known(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise _Unknown
