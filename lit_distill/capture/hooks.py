"""The hooks that read a network's layers, and the store that they write to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils.hooks import RemovableHandle

from lit_distill.batch.layout import Evidence, Placement, dense
from lit_distill.utils.names import hook_key, layer_path

LayerCalls = dict[str, list[tuple[Any, int | None]]]  # each layer's outputs, call by call, with their versions


class AllRead(BaseException):
    """Raised to stop a forward pass once every captured layer has run; a ``BaseException``, so that models do not catch it."""


@dataclass
class Store:
    """The outputs that the hooks of one model have read; they write only while ``recording`` is set.

    ``expected`` is the number of calls in a whole pass; ``stop`` ends the pass at the last of them. While ``evidence`` is
    gathered, ``placed`` gets the place of each layer's channels, or None if it is unknown.
    """

    recording: bool = False
    evidence: Evidence | None = None
    placed: dict[str, Placement | None] = field(default_factory=dict)
    clone: set[str] = field(default_factory=set)
    calls: LayerCalls = field(default_factory=dict)
    expected: int = 0
    stop: bool = False

    def put(self, key: str, value: Any, module: nn.Module | None = None) -> None:
        self._keep(key, padded(value, bool(getattr(module, "batch_first", True))))
        tensor = self.calls[key][-1][0]
        if self.evidence is not None and isinstance(tensor, Tensor):
            self.placed[key] = _placed(self.evidence, key, tensor, module)
        if self.stop and self.count() == self.expected:
            raise AllRead

    def count(self) -> int:
        return sum(map(len, self.calls.values()))

    def _keep(self, key: str, value: Any) -> None:
        tensor = select_tensor(value)
        if tensor is None:
            self.calls.setdefault(key, []).append((value, None))
            return
        tensor = dense(tensor)
        if key in self.clone:
            tensor = tensor.clone()
        version = None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
        self.calls.setdefault(key, []).append((tensor, version))


def _placed(evidence: Evidence, key: str, tensor: Tensor, module: nn.Module | None) -> Placement | None:
    if key.endswith(":qkv"):
        return Placement(3, 2, 0 if getattr(module, "batch_first", True) else 1) if tensor.dim() == 3 else None
    return evidence.place(tensor, module, key.endswith(":input"))


def select_tensor(value: Any) -> Tensor | None:
    """Return a layer's tensor: the output itself, or the first tensor of a tuple or a mapping; None for a list of several."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list) and sum(isinstance(item, Tensor) for item in value) > 1:
        return None  # parallel branches, of which none is the first
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((item for item in values if isinstance(item, Tensor)), None)


def padded(value: Any, batch_first: bool) -> Any:
    """Pad a recurrent layer's packed sequence; return anything else unchanged."""
    first = value[0] if isinstance(value, tuple) and value and not isinstance(value, PackedSequence) else value
    return pad_packed_sequence(first, batch_first=batch_first)[0] if isinstance(first, PackedSequence) else value


class OutputHook:
    """A forward hook that pickles and deep-copies with its model, unlike a closure."""

    def __init__(self, key: str, store: Store) -> None:
        self.key = key
        self.store = store

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.store.recording:
            self.store.put(self.key, output, module)


class InputHook(OutputHook):
    """A forward pre-hook: reads the first tensor among the arguments, before the layer can change it."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if self.store.recording:
            self.store.put(self.key, args if select_tensor(args) is not None else kwargs, module)


class ProjectionHook(OutputHook):
    """A forward pre-hook of an ``nn.MultiheadAttention``, which computes its queries, keys and values without a module.

    It reads them side by side, ``[B, N, 3 D]``, in a layer that attends to its own input.
    """

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if self.store.recording:
            taken = args[0] if args else kwargs["query"]
            self.store.put(self.key, F.linear(taken, module.in_proj_weight, module.in_proj_bias), module)  # type: ignore[arg-type]


def register(module: nn.Module, key: str, store: Store) -> RemovableHandle:
    """Register the hook that reads a layer, ``path``, ``path:input`` or ``path:qkv``, on its module."""
    if key.endswith((":input", ":qkv")):
        hook = ProjectionHook(key, store) if key.endswith(":qkv") else InputHook(key, store)
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(OutputHook(key, store), with_kwargs=True)


def check_projections(layers: Iterable[str], modules: Mapping[str, nn.Module], owner: str) -> None:
    """Refuse ``path:qkv`` of a module that does not hold the projections of self-attention in one matrix."""
    for key in (hook_key(layer) for layer in layers):
        if not key.endswith(":qkv"):
            continue
        module = modules[layer_path(key)]
        if not isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"{key!r} of the {owner}: ':qkv' reads an nn.MultiheadAttention, and this is a {type(module).__name__}. "
                "Name the layers inside it that give queries, keys and values."
            )
        if module.in_proj_weight is None:
            raise ValueError(
                f"{key!r} of the {owner}: ':qkv' reads self-attention, and the keys or values of this layer have other widths "
                "than its queries."
            )
