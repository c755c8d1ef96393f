"""A cache of a frozen teacher's outputs for evaluation batches that do not change."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import Arguments, Inputs

Place = tuple[str, int, int]


@dataclass
class _Entry:
    inputs: list[Any]
    weights: Hashable
    logits: Tensor


class TeacherCache:
    """A frozen teacher's logits for evaluation batches that do not change: computed once, not each epoch.

    A batch is recognised by its place, by a positional sum over each sample's inputs, and by the teacher's weights; if one
    differs, the teacher runs again. Inputs with objects of unknown content are not cached.

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
        found = _marks(inputs)
        return known.logits if found is not None and _equal(known.inputs, found) else None

    def keep(self, place: Place, inputs: Inputs, logits: Tensor, weights: Hashable = None) -> None:
        """Keep the logits of a batch, if there is room; ``weights`` marks the teacher's present weights."""
        size = logits.numel() * logits.element_size()
        known = self._batches.pop(place, None)
        if known is not None:
            self._bytes -= known.logits.numel() * known.logits.element_size()
        marks = _marks(inputs) if self._bytes + size <= self.limit else None
        if marks is not None:
            self._batches[place] = _Entry(marks, weights, logits.detach().cpu().clone())
            self._bytes += size

    def forget(self) -> None:
        """Empty the cache."""
        self._batches.clear()
        self._bytes = 0


class _Unknown(Exception):
    """Raised at an object of unknown content."""


def _marks(inputs: Any) -> list[Any] | None:
    """Return marks of everything in the inputs, in order; None if something cannot be marked."""
    marks: list[Any] = []
    try:
        _add_marks(inputs, marks)
    except _Unknown:
        return None
    return marks


def _add_marks(value: Any, marks: list[Any]) -> None:
    if isinstance(value, Tensor):
        marks += [(tuple(value.shape), value.dtype), _mark(value)]
    elif isinstance(value, Arguments):
        _add_marks((value.positional, value.named), marks)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            marks.append(key)
            _add_marks(entry, marks)
    elif isinstance(value, (tuple, list)):
        marks.append(len(value))
        for entry in value:
            _add_marks(entry, marks)
    elif value is None or isinstance(value, (str, bytes, bool, int, float, complex, torch.dtype, torch.device)):
        marks.append(value)
    elif dataclasses.is_dataclass(value):
        _add_marks({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, marks)
    else:
        raise _Unknown


def _mark(tensor: Tensor) -> Tensor:
    """Return numbers that change with the values and their places, one per row."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        raise _Unknown
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(-1, 1)
    ramp = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=torch.float64).sqrt()
    return (flat.double() * ramp).sum(1).cpu()


def _equal(known: list[Any], found: list[Any]) -> bool:
    return len(known) == len(found) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b
        for a, b in zip(known, found, strict=True)
    )
