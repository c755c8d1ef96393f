"""Finds the dimension of a network's tensor that holds its channels or classes, and moves it to one layout.

Criteria see vectors ``[B, D]``, tokens ``[B, N, D]``, maps ``[B, C, H, W]`` and volumes ``[B, C, D, H, W]``, whatever the
network makes: a ``Conv1d`` gives ``[B, C, L]``, Swin's stages ``[B, H, W, C]``, an LSTM by default ``[T, B, D]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Layout = Literal["channels_first", "channels_last"]
_SQUASHES = {"sigmoid", "sigmoid_", "softmax"}  # functions of PyTorch
_CONVOLUTION = re.compile(r"Conv\w*[123]d")

_SEQUENTIAL = (
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)


@dataclass(frozen=True)
class Placement:
    """The dimensions that hold the samples and the channels in a tensor of ``dims`` dimensions."""

    dims: int
    channel: int
    batch: int = 0

    def arrange(self, tensor: Tensor) -> Tensor:
        """Return a view of the tensor in the layout that criteria see."""
        if tensor.dim() != self.dims or self.dims < 3:
            return tensor
        if self.batch:
            return tensor.movedim(self.batch, 0)
        return tensor.movedim(self.channel, usual_channel_dim(self.dims))

    def words(self) -> str:
        """Describe what is unusual about it; empty if nothing is."""
        if self.batch:
            return "sequence first in the network"
        if self.dims < 3 or self.channel == usual_channel_dim(self.dims):
            return ""
        return "channels first in the network" if self.dims == 3 else "channels last in the network"


def usual_channel_dim(dims: int) -> int:
    """Return the channels' dimension as criteria see a tensor: 1 in maps and volumes, the last in vectors and tokens."""
    return 1 if dims > 3 else dims - 1


@dataclass(frozen=True)
class Width:
    """The number of channels in the output of a module of a known kind: in dimension 1 if ``first``, else in the last."""

    channels: int
    first: bool

    def dim(self, dims: int) -> int:
        """Return the channels' dimension in a tensor of so many dimensions."""
        return 1 if self.first else dims - 1


def width_of(module: nn.Module, entering: bool = False) -> Width | None:
    """Return the channels that a module outputs, or takes, if its kind shows it; None for other modules."""
    return _width_of_convolution(module, entering) or _width_of_norm(module) or _width_of_linear(module, entering)


def _width_of_convolution(module: nn.Module, entering: bool) -> Width | None:
    quantised = _CONVOLUTION.search(type(module).__name__) and hasattr(module, "out_channels")
    if not (quantised or isinstance(module, nn.modules.conv._ConvNd)):
        return None
    return Width(int(module.in_channels if entering else module.out_channels), True)  # type: ignore[arg-type]


def _width_of_norm(module: nn.Module) -> Width | None:
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        return Width(module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features, True)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        # timm's and torchvision's LayerNorm2d and ConvNeXt's own are LayerNorms over dimension 1.
        first = "2d" in type(module).__name__ or getattr(module, "data_format", "") == "channels_first"
        return Width(module.normalized_shape[-1], first)
    return None


def _width_of_linear(module: nn.Module, entering: bool) -> Width | None:
    if isinstance(module, nn.RNNBase):
        each = module.proj_size or module.hidden_size
        return Width(module.input_size if entering else each * (1 + module.bidirectional), False)
    if isinstance(module, nn.MultiheadAttention):
        return Width(module.embed_dim, False)
    # `nf` is of the Conv1D in Hugging Face's GPT-2, which is a linear layer.
    for name in ("in_features",) if entering else ("out_features", "embedding_dim", "nf"):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return Width(value, False)
    return None


class Evidence:
    """The outputs of modules of known kinds in one forward pass, in order."""

    def __init__(self) -> None:
        self.widths: list[Width] = []
        self.last: Tensor | None = None
        self.squashed: Tensor | None = None  # the output of the last sigmoid or softmax
        self.started: dict[nn.Module, int] = {}

    def add(self, width: Width, output: Tensor) -> None:
        self.widths.append(width)
        self.last = output

    def place(self, tensor: Tensor, module: nn.Module | None = None, entering: bool = False) -> Placement | None:
        """Find where the output that a module (if None, the whole network) just made, or its input, holds its channels.

        None if the modules contradict each other.
        """
        dims = tensor.dim()
        if dims < 3:
            return Placement(dims, dims - 1)
        batch = 1 if dims == 3 and isinstance(module, _SEQUENTIAL) and not _batch_first(module) else 0
        if batch:
            return Placement(dims, 2, batch)
        own = width_of(module, entering) if module is not None else None
        if own is not None and tensor.shape[own.dim(dims)] == own.channels:
            return Placement(dims, own.dim(dims))
        widths = self.widths[0 if entering or module is None else self.started.get(module, 0) :] or self.widths[-1:]
        if entering:
            widths = widths[-1:]
        found = self._followed(tensor, widths) if widths else usual_channel_dim(dims)
        return Placement(dims, found) if found is not None else None

    def _followed(self, tensor: Tensor, widths: list[Width]) -> int | None:
        dims, width = tensor.dim(), widths[-1]
        same = self._by_memory(tensor, width)
        if same is not None:
            return same
        fitting = [dim for dim in (1, dims - 1) if tensor.shape[dim] == width.channels]
        if len(fitting) == 1:
            return fitting[0]
        if len({width.first for width in widths}) > 1:
            return None
        # Branches side by side have a multiple of the width, or what came after is unknown.
        if dims == 3 and not fitting:
            several = [dim for dim in (1, 2) if tensor.shape[dim] % width.channels == 0]
            return width.dim(dims) if several == [width.dim(dims)] else None
        return width.dim(dims)

    def _by_memory(self, tensor: Tensor, width: Width) -> int | None:
        """Return the channels' dimension if the tensor is the last module's own output, or a view of it."""
        last = self.last
        if last is None or last.device.type == "meta" or last.numel() != tensor.numel():
            return None
        if last.data_ptr() != tensor.data_ptr() or not tensor.numel():
            return None
        place = width.dim(last.dim())
        fitting = [
            dim
            for dim in range(1, tensor.dim())
            if tensor.shape[dim] == last.shape[place] and tensor.stride(dim) == last.stride(place)
        ]
        return fitting[0] if len(fitting) == 1 else None


class _Squashes(TorchFunctionMode):
    """Notes the outputs of sigmoids and softmaxes, whether modules or calls in a ``forward``."""

    def __init__(self, evidence: Evidence) -> None:
        super().__init__()
        self._evidence = evidence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _SQUASHES and isinstance(output, Tensor):
            self._evidence.squashed = output
        return output


def _batch_first(module: nn.Module) -> bool:
    found = next((part for part in module.modules() if hasattr(part, "batch_first")), None)
    return bool(getattr(found, "batch_first", True))


def _is_watched(module: nn.Module) -> bool:
    return width_of(module) is not None and not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks


@contextmanager
def observed(model: nn.Module, layers: list[nn.Module], eager: bool = True) -> Iterator[Evidence]:
    """Observe one forward pass of a network, in which the outputs of some layers will be placed.

    If ``eager``, observe the functions that it calls too; a compiled network would be recompiled for that.
    """
    evidence = Evidence()

    def begin(module: nn.Module, args: Any) -> None:
        evidence.started[module] = len(evidence.widths)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        width = width_of(module)
        tensor = output if isinstance(output, Tensor) else output[0] if isinstance(output, tuple) and output else None
        if width is not None and isinstance(tensor, Tensor) and not tensor.is_nested and tensor.dim() > 2:
            evidence.add(width, tensor)

    handles = [module.register_forward_pre_hook(begin, prepend=True) for module in layers]
    # First among a module's hooks, so that a layer's own width is known when the layer is read.
    handles += [m.register_forward_hook(end, prepend=True) for m in model.modules() if _is_watched(m)]
    try:
        with _Squashes(evidence) if eager else nullcontext():
            yield evidence
    finally:
        for handle in handles:
            handle.remove()
        evidence.started = {}


def timm_channels(model: nn.Module, layer: str) -> int | None:
    """Return the number of channels that timm's ``feature_info`` gives for a layer, or None."""
    known = getattr(model, "feature_info", None)
    for entry in known if isinstance(known, list) else getattr(known, "info", ()) or ():
        if isinstance(entry, Mapping) and entry.get("module") == layer and isinstance(entry.get("num_chs"), int):
            return int(entry["num_chs"])
    return None


def dense(tensor: Tensor) -> Tensor:
    """Pad a nested tensor with zeros; return others as they are."""
    return torch.nested.to_padded_tensor(tensor, 0.0) if tensor.is_nested else tensor
