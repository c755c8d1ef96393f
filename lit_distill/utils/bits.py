"""Digests of values, equal if every bit of every tensor is; a tensor is read on its device, in a few passes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

# Odd 64-bit constants with no pattern (the golden ratio's among them), as signed numbers.
_PLACE, _MIX, _FINISH = 6364136223846793005, -7046029254386353131, -4417276706812531889
_SMALL = 1 << 16  # bytes
_WORDS = {"cpu": 1 << 17, "other": 1 << 22}  # at a time: what a cache holds, what a launch is worth


def value_digest(value: Any) -> str:
    """Return a digest of a tensor of any kind, or of nested tensors and plain values; of other objects only the type counts."""
    found: str = _digest(value)
    return found


@torch.compiler.disable  # type: ignore[untyped-decorator]  # in steps compiled whole, its views of bytes would break
@torch.no_grad()
def _digest(value: Any) -> str:
    state = hashlib.sha256()
    for part in _words(value):
        state.update(part.encode() + b";")
    return state.hexdigest()[:16]


def _words(value: Any) -> Iterable[str]:
    if isinstance(value, Tensor):
        return _tensor_words(value)
    if isinstance(value, dict):
        return [word for key, entry in value.items() for word in (str(key), *_words(entry))]
    if isinstance(value, (list, tuple)):
        return [str(len(value)), *(word for entry in value for word in _words(entry))]
    return _object_words(value)


def _object_words(value: Any) -> list[str]:
    if value is None or isinstance(value, (str, bytes, bool, int, float, complex, torch.dtype)):
        return [repr(value)]
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):  # of NumPy
        return [str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, torch.ScriptObject) and hasattr(value, "__getstate__"):
        return [type(value).__name__, *_words(value.__getstate__())]
    return [type(value).__name__]


def _tensor_words(tensor: Tensor) -> list[str]:
    if is_lazy(tensor):
        return ["uninitialised"]
    if isinstance(tensor, DTensor):
        return [str(tensor.dtype), str(list(tensor.shape)), "sharded"]
    head = [str(tensor.dtype), str(tensor.layout)]
    if tensor.is_nested:
        return [*head, *(word for part in tensor.unbind() for word in _tensor_words(part))]
    head.append(str(list(tensor.shape)))
    if tensor.device.type == "meta":
        return [*head, "meta"]
    parts = _parts(tensor)
    if parts is not None:
        return [*head, *(word for part in parts for word in _words(part))]
    return [*head, _sum(tensor)]


_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_affine_float_qparams)


def _parts(tensor: Tensor) -> list[Any] | None:
    """Return the plain tensors that a tensor of another kind consists of; None for a plain one."""
    if tensor.is_quantized:
        names = "q_scale", "q_zero_point"
        if tensor.qscheme() in _PER_CHANNEL:
            names = "q_per_channel_scales", "q_per_channel_zero_points"
        return [tensor.int_repr(), str(tensor.qscheme()), *(getattr(tensor, name)() for name in names)]
    if tensor.layout in _COMPRESSED:
        return [*(getattr(tensor, name)() for name in _COMPRESSED[tensor.layout]), tensor.values()]
    if tensor.layout == torch.sparse_coo:
        whole = tensor.coalesce()
        return [whole.indices(), whole.values()]
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:  # a subclass around plain tensors, as quantised weights are
        inner, context = flatten()
        return [*(getattr(tensor, name) for name in inner), repr(context)]
    return [tensor.to_dense()] if tensor.layout != torch.strided else None  # MKL-DNN's


def _sum(tensor: Tensor) -> str:
    """Return a sum over a plain tensor's 64-bit words, each mixed with its place: any changed bit or swap changes it.

    A small tensor has an ordinary digest instead: for it, the passes of the sum cost more than a copy to the CPU.
    """
    data = tensor.detach().as_subclass(Tensor).resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = (torch.view_as_real(data).reshape(-1) if data.is_complex() else data).view(torch.uint8)
    if data.numel() <= _SMALL:
        return hashlib.blake2b(data.cpu().numpy().data, digest_size=8).hexdigest()
    whole = data.numel() // 8 * 8
    words = data[:whole]
    words = (words if words.storage_offset() % 8 == 0 else words.clone()).view(torch.int64)
    rest = int.from_bytes(bytes(data[whole:].tolist()), "little")
    total = int(_mixed_sum(words)) if len(words) else 0
    return f"{total:x}.{rest:x}"


def _mixed_sum(words: Tensor) -> Tensor:
    step = _WORDS["cpu" if words.device.type == "cpu" else "other"]
    places = torch.arange(min(step, len(words)), device=words.device) * _PLACE
    scratch, shifted = torch.empty_like(places), torch.empty_like(places)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for index, part in enumerate(torch.split(words, step)):
        size = len(part)
        mixed, half = scratch[:size], shifted[:size]
        torch.bitwise_xor(part, places[:size], out=mixed)
        mixed.mul_(_MIX + 2 * index)  # odd, so that nothing is lost, and another in each piece
        torch.bitwise_right_shift(mixed, 32, out=half)
        mixed.bitwise_xor_(half).mul_(_FINISH)
        torch.bitwise_right_shift(mixed, 29, out=half)
        total += mixed.bitwise_xor_(half).sum()
    return total
