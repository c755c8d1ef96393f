"""What a frozen teacher said of evaluation batches that do not change."""

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
class _Remembered:
    inputs: list[Any]
    weights: Hashable
    logits: Tensor


class TeacherMemory:
    """A frozen teacher's logits for evaluation batches that do not change: computed once, not each epoch.

    A batch is known by its place, by a positional sum over each sample's inputs, and by the weights that answered it;
    where one differs, the teacher is asked again. Inputs that hold objects whose content cannot be told are not remembered.

    Args:
        limit: Most bytes to keep; later batches are recomputed each time.
    """

    def __init__(self, limit: int = 256 * 2**20) -> None:
        self.limit = limit
        self._batches: dict[Place, _Remembered] = {}
        self._bytes = 0

    def recall(self, place: Place, inputs: Inputs, weights: Hashable = None) -> Tensor | None:
        """The logits for this batch, if it is the one that was seen at this place.

        Args:
            place: Stage, index of the DataLoader, index of the batch.
            inputs: The teacher's.
            weights: A mark of the teacher's weights as they are.
        """
        known = self._batches.get(place)
        if known is None or known.weights != weights:
            return None
        found = _marks(inputs)
        return known.logits if found is not None and _equal(known.inputs, found) else None

    def keep(self, place: Place, inputs: Inputs, logits: Tensor, weights: Hashable = None) -> None:
        """Remember the logits of a batch, if there is room.

        Args:
            place: As in ``recall``.
            inputs: As in ``recall``.
            logits: The teacher's.
            weights: As in ``recall``.
        """
        size = logits.numel() * logits.element_size()
        known = self._batches.pop(place, None)
        if known is not None:
            self._bytes -= known.logits.numel() * known.logits.element_size()
        marks = _marks(inputs) if self._bytes + size <= self.limit else None
        if marks is not None:
            self._batches[place] = _Remembered(marks, weights, logits.detach().cpu().clone())
            self._bytes += size

    def forget(self) -> None:
        """Drop all."""
        self._batches.clear()
        self._bytes = 0


class _Unknown(Exception):
    """Something whose content cannot be told."""


def _marks(inputs: Any) -> list[Any] | None:
    """Marks of all that the inputs hold, in order; None where something cannot be marked."""
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
    """Numbers that change with the values and with their places: one a row, of a tensor that has rows."""
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
