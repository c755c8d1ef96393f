"""A traced network whose convolutions and linear layers run on oneDNN's int8 kernels.

These kernels take plain uint8 and int8 tensors with their scales, as ``torch.compile`` calls them; nothing of
``torch.ao`` is used.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

_CONVOLUTIONS: dict[type[nn.Module], str] = {
    nn.Conv1d: "qconv1d_pointwise",
    nn.Conv2d: "qconv2d_pointwise",
    nn.Conv3d: "qconv3d_pointwise",
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RECTIFIERS = (F.relu, torch.relu, torch.relu_, "relu", "relu_")


@dataclass(frozen=True)
class Grid:
    """The 256 values that a uint8 tensor stands for: ``(q - zero) * scale``."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> Grid:
        """Return the grid from ``low`` (0 at most) to ``high`` (0 at least)."""
        levels = 255 if torch.cpu._is_vnni_supported() else 127  # without VNNI, sums of two products overflow
        scale = max((high - low) / levels, 1e-12)
        return cls(scale, round(-low / scale))


class Ranges(fx.Interpreter):
    """Runs a traced network and keeps the range and the shape of every tensor in it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.traced = traced
        self.found: dict[fx.Node, tuple[float, float]] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}

    def __call__(self, *inputs: Any, **named: Any) -> None:
        self.run(*inspect.signature(self.traced.forward).bind(*inputs, **named).arguments.values())

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = (float(bound) for bound in torch.aminmax(value))
            before = self.found.get(n, (0.0, 0.0))
            self.found[n] = min(low, before[0]), max(high, before[1])
            self.shapes[n] = value.shape
        return value

    def grid(self, node: fx.Node) -> Grid:
        """Return the grid that spans a node's values and 0."""
        return Grid.over(*self.found[node])

    def called(self, node: fx.Node) -> Any:
        """Return the module that a node calls, if it calls one."""
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None


@dataclass
class _Plan:
    """A layer that is to run in int8, and the nodes that its kernel computes with it."""

    layer: Any
    source: fx.Node  # what the layer reads
    tail: fx.Node  # the last node that the kernel stands for
    norm: Any = None  # a BatchNorm to fold in
    other: fx.Node | None = None  # what is added to the layer's output
    after: tuple[str, list[float], str] = ("none", [], "")  # the activation, as the kernel takes it


def lower(ranges: Ranges) -> fx.GraphModule:
    """Put int8 kernels, in place, where a calibrated network has convolutions and linear layers.

    A kernel takes in the BatchNorm, the addition and the ReLU that follow its layer. Between two kernels values stay in
    uint8; everything else computes in float32.
    """
    traced = ranges.traced
    plans = list(_plans(ranges))
    read = {node for plan in plans for node in (plan.source, plan.other) if node is not None}
    written: dict[fx.Node, fx.Node] = {}
    for number, plan in enumerate(plans):
        inputs = [_in_uint8(node, ranges, written) for node in (plan.source, plan.other) if node is not None]
        narrow = plan.tail in read or plan.other is not None
        name = f"int8_{number}"
        traced.add_submodule(name, _Kernel(plan, ranges, narrow))
        with traced.graph.inserting_after(plan.tail):
            found = traced.graph.call_module(name, tuple(inputs))
        if narrow:
            written[plan.tail] = found
            with traced.graph.inserting_after(found):
                found = traced.graph.call_function(_as_float, (found, *astuple(ranges.grid(plan.tail))))
        plan.tail.replace_all_uses_with(found)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _plans(ranges: Ranges) -> Iterator[_Plan]:
    order = {node: place for place, node in enumerate(ranges.traced.graph.nodes)}
    for node in order:
        layer, source = ranges.called(node), node.args[0] if node.args else None
        known = type(layer) is nn.Linear or (type(layer) in _CONVOLUTIONS and layer.padding_mode == "zeros")
        padded = isinstance(getattr(layer, "padding", ()), str)
        if known and not padded and isinstance(source, fx.Node) and {node, source} <= ranges.found.keys():
            plan = _Plan(layer, source, node)
            _take_norm(plan, ranges)
            _take_addition(plan, ranges, order)
            _take_rectifier(plan, ranges)
            yield plan


def _take_norm(plan: _Plan, ranges: Ranges) -> None:
    after = _only_user(plan.tail)
    norm: Any = ranges.called(after) if after is not None else None
    folds = type(norm) in _NORMS and not norm.training and norm.running_mean is not None
    if folds and after is not None and (type(plan.layer) is not nn.Linear or len(ranges.shapes[after]) == 2):
        plan.norm, plan.tail = norm, after


def _take_addition(plan: _Plan, ranges: Ranges, order: dict[fx.Node, int]) -> None:
    after = _only_user(plan.tail)
    if type(plan.layer) is not nn.Conv2d or after is None or after.target not in _ADDITIONS or after.kwargs:
        return
    if after.target in (operator.iadd, "add_") and after.args[0] is not plan.tail:
        return  # what is overwritten may be read again
    for other in after.args:
        known = isinstance(other, fx.Node) and other in ranges.found and order[other] < order[plan.tail]
        if known and ranges.shapes[other] == ranges.shapes[plan.tail]:  # type: ignore[index]
            plan.other, plan.tail = other, after  # type: ignore[assignment]
            return


def _take_rectifier(plan: _Plan, ranges: Ranges) -> None:
    after = _only_user(plan.tail)
    if after is None or type(plan.layer) is nn.Conv3d:  # whose kernel takes nothing in
        return
    if type(plan.layer) is nn.Conv1d and not _rectifies_1d():
        return
    if after.target in _RECTIFIERS or type(ranges.called(after)) is nn.ReLU:
        plan.after, plan.tail = ("relu", [], ""), after
    elif type(ranges.called(after)) is nn.ReLU6 and type(plan.layer) is nn.Conv2d and plan.other is None:
        plan.after, plan.tail = ("hardtanh", [0.0, 6.0], ""), after


@functools.cache
def _rectifies_1d() -> bool:
    """Return True if the kernel of 1D convolutions takes in a ReLU, which PyTorch 2.6's does not."""
    geometry, scales, zeros = ([1], [0], [1], 1), torch.ones(1), torch.zeros(1, dtype=torch.int32)
    packed = torch.ops.onednn.qconv_prepack(torch.ones(1, 1, 1, dtype=torch.int8), scales, 1.0, 0, *geometry, None)
    given = torch.ones(1, 1, 1, dtype=torch.uint8)
    target: tuple[Any, ...] = (1.0, 0, torch.float32, "relu", [], "")
    try:
        torch.ops.onednn.qconv1d_pointwise(given, 1.0, 0, packed, scales, zeros, None, *geometry, *target)
    except RuntimeError:
        return False
    return True


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


class _Kernel(nn.Module):
    """An int8 layer with what is added to its output and the ReLU after it; ``narrow`` for an output in uint8."""

    def __init__(self, plan: _Plan, ranges: Ranges, narrow: bool) -> None:
        super().__init__()
        weight, bias = _folded(plan)
        rounded, scales, zeros = _rounded(weight)
        source = astuple(ranges.grid(plan.source))
        if type(plan.layer) is nn.Linear:
            geometry: tuple[Any, ...] = ()
            self.kernel, packed = torch.ops.onednn.qlinear_pointwise, torch.ops.onednn.qlinear_prepack(rounded, None)
        else:
            geometry = tuple(getattr(plan.layer, name) for name in ("stride", "padding", "dilation", "groups"))
            self.kernel = getattr(torch.ops.onednn, _CONVOLUTIONS[type(plan.layer)])
            packed = torch.ops.onednn.qconv_prepack(rounded, scales, *source, *geometry, None)
        target = (*astuple(ranges.grid(plan.tail)), torch.uint8) if narrow else (1.0, 0, torch.float32)
        self.weights = (*source, packed, scales, zeros)
        self.rest = (bias, *geometry, *target)
        self.after = plan.after
        self.added = (*astuple(ranges.grid(plan.other)), "sum", 1.0) if plan.other is not None else ()

    def forward(self, given: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None:
            found: Tensor = self.kernel(given, *self.weights, *self.rest, *self.after)
            return found
        total = other.clone(memory_format=torch.preserve_format)  # the kernel adds into it
        found = self.kernel.binary(given, *self.weights, total, *self.rest, *self.added, *self.after)
        return found


def _folded(plan: _Plan) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight and bias with its BatchNorm folded in."""
    layer: Any = plan.layer
    weight, bias, norm = layer.weight.detach(), layer.bias, plan.norm
    if norm is not None:
        fuse: Any = fuse_linear_bn_weights if type(layer) is nn.Linear else fuse_conv_bn_weights
        weight, bias = fuse(weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    return weight.detach().float(), None if bias is None else bias.detach().float()


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return int8 weights with the scale and the zero point of each output channel."""
    scales = (weight.flatten(1).abs().amax(1) / 127).clamp_min(1e-12)
    rounded = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)
    return rounded, scales, torch.zeros(len(scales), dtype=torch.int32)


class DynamicLinear(nn.Linear):
    """A linear layer with int8 weights, whose inputs are rounded over the range that they have in each call."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        rounded, *scales = _rounded(layer.weight.detach())
        self._packed = (torch.ops.onednn.qlinear_prepack(rounded, None), *scales)

    def forward(self, input: Tensor) -> Tensor:
        low, high = (float(bound) for bound in torch.aminmax(input)) if input.numel() else (float("nan"),) * 2
        if not high - low < float("inf"):  # NaN, infinite or empty
            return super().forward(input)
        source = astuple(Grid.over(min(low, 0.0), max(high, 0.0)))
        given = _as_uint8(input, *source)
        target: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        found: Tensor = torch.ops.onednn.qlinear_pointwise(given, *source, *self._packed, self.bias, *target)
        return found


def _in_uint8(node: fx.Node, ranges: Ranges, written: dict[fx.Node, fx.Node]) -> fx.Node:
    """Return the node of a value in uint8; make it if no kernel writes it."""
    if node not in written:
        graph = node.graph
        inputs = [other for other in graph.nodes if other.op == "placeholder"]
        with graph.inserting_after(inputs[-1] if node in inputs else node):
            written[node] = graph.call_function(_as_uint8, (node, *astuple(ranges.grid(node))))
    return written[node]


def _as_uint8(value: Tensor, scale: float, zero: int) -> Tensor:
    if value.dim() == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    return value.mul(1 / scale).add_(zero + 0.5).clamp_(0, 255).to(torch.uint8)


def _as_float(value: Tensor, scale: float, zero: int) -> Tensor:
    return value.float().sub_(zero).mul_(scale)
