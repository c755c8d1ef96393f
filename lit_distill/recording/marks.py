"""Marks of recorded samples: the CRC-32 of all that is read of a sample, so that a changed one is noticed when read.

``zlib.crc32`` runs at 4 GB/s (3 µs for a CIFAR image in float32, 0.12 ms for one of ImageNet), three times as fast as the
fastest of ``hashlib``. 1 changed sample in 4 billion keeps its mark.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_distill.batch.batch import attributes_of

FIELD = "sample/crc32"  # field of a record; no layer has this name
Marks = NDArray[np.uint32]

_DEPTH = 8  # objects may refer to each other in a circle
_PLAIN = (str, int, float, complex, type(None), Enum, PurePath, date, time, timedelta)
_BUFFERS = (bytes, bytearray, memoryview, array)
_OF_NUMPY = (torch.float32, torch.uint8, torch.int64, torch.float64, torch.int32, torch.float16, torch.bool)
_NESTED = (Tensor, np.ndarray, Mapping, list)
_HOLDS_DATA = (*_NESTED, tuple, str, bytes)


def mark(sample: Any, state: int = 0, depth: int = _DEPTH) -> int:
    """Return 32 bits that depend on every byte of nested tensors, arrays, images, texts and numbers, the same in every process.

    Other parts of an object (its address, its counters) do not enter.
    """
    if isinstance(sample, Tensor):
        return _of_tensor(sample, state)
    if isinstance(sample, _PLAIN):
        shown = sample.name if isinstance(sample, Enum) else repr(sample)
        return _of_text(f"{type(sample).__name__}:{shown}", state)
    if isinstance(sample, (np.ndarray, np.generic)):
        return _of_array(np.asarray(sample), state, depth)
    if isinstance(sample, _BUFFERS):
        return zlib.crc32(bytes(sample), _of_text(f"{type(sample).__name__}{len(sample)}", state))
    parts = _parts(sample) if depth else []
    state = _of_text(f"{type(sample).__name__}{len(parts)}", state)
    for part in parts:
        state = mark(part, state, depth - 1)
    return state


def marks_of_rows(batch: Any, count: int) -> Marks:
    """Return the mark ``[B]`` of each sample of a collated batch: nested tensors, arrays and lists of ``count`` rows."""
    marks = [0] * count
    for column in _columns(batch, count):
        if isinstance(column, Tensor) and column.layout == torch.strided:
            head = f"{column.dtype}{tuple(column.shape[1:])}"
            rows = _memory_of(column).reshape(count, -1)
            marks = [zlib.crc32(row.data, _of_text(head, state)) for row, state in zip(rows, marks, strict=True)]
        else:
            marks = [mark(column[place], state) for place, state in enumerate(marks)]
    return np.asarray(marks, dtype=np.uint32)


def _columns(batch: Any, count: int, depth: int = _DEPTH) -> list[Any]:
    """Return the parts with one row per sample of a batch."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return [batch] if batch.ndim and len(batch) == count else []
    if isinstance(batch, (list, tuple)) and len(batch) == count and not any(isinstance(x, _NESTED) for x in batch):
        return [batch]
    if depth == 0 or isinstance(batch, (*_PLAIN, *_BUFFERS)):
        return []
    return [column for part in _parts(batch) for column in _columns(part, count, depth - 1)]


def _parts(value: Any) -> list[Any]:
    """Return the parts of a container or an object, in an order that does not depend on the process."""
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: (type(name).__name__, str(name)))
        return [part for name in names for part in (str(name), value[name])]
    if isinstance(value, (list, tuple, Set)):
        return sorted(mark(part) for part in value) if isinstance(value, Set) else list(value)
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a Pillow image
        palette = value.getpalette() if value.mode == "P" else None
        return [value.mode, tuple(value.size), value.tobytes(), palette]
    if hasattr(value, "__array__") and not isinstance(value, type):
        return [np.asarray(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [part for field in fields(value) for part in (field.name, getattr(value, field.name, None))]
    held = attributes_of(value)
    return [part for name in sorted(held) if isinstance(held[name], _HOLDS_DATA) for part in (name, held[name])]


def _of_text(text: str, state: int) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"), state)


def _of_array(value: NDArray[Any], state: int, depth: int) -> int:
    state = _of_text(f"{value.dtype}{value.shape}", state)
    if value.dtype.hasobject:  # its bytes are addresses
        return mark(value.reshape(-1).tolist(), state, depth - 1) if depth else state
    return zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, state) if value.size else state


def _of_tensor(value: Tensor, state: int) -> int:
    value = _plain(value)
    if value.is_nested:
        return mark(list(value.unbind()), state)
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return mark((tuple(value.shape), value.indices(), value.values()), state)
    if value.layout != torch.strided:
        return _of_tensor(value.to_sparse(), state)
    state = _of_text(f"{value.dtype}{tuple(value.shape)}", state)
    if not value.is_contiguous():
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        if value.permute(order).is_contiguous():  # an image decoded as [H, W, C]: no need to copy it
            value, state = value.permute(order), _of_text(str(order), state)
    return zlib.crc32(_memory_of(value).data, state) if value.numel() else state


def _memory_of(value: Tensor) -> NDArray[Any]:
    """Return a strided tensor's values as one contiguous NumPy array."""
    value = _plain(value)
    if value.is_quantized:
        value = value.int_repr()
    value = value.cpu().resolve_conj().resolve_neg().contiguous()
    return value.numpy() if value.dtype in _OF_NUMPY else value.reshape(-1).view(torch.uint8).numpy()


def _plain(value: Tensor) -> Tensor:
    """Remove a tensor's graph and subclass: on torchvision's, each query takes 10 µs."""
    if type(value) is Tensor:
        return value.detach() if value.requires_grad else value
    with torch._C.DisableTorchFunctionSubclass():
        return value.detach()
