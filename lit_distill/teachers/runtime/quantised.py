"""A network in int8: a traced graph that returns the logits and the captured layers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from lit_distill.batch.batch import Inputs, call_model, positions_and_names
from lit_distill.capture.capture import Capture
from lit_distill.capture.hooks import select_tensor
from lit_distill.outputs import Outputs
from lit_distill.teachers.runtime.int8 import DynamicLinear, Ranges, lower
from lit_distill.utils.names import chosen_call, first_line, hook_key, layer_path
from lit_distill.utils.tensors import first_parameter

Read = Callable[[Inputs], Outputs]

_MOST_FAR = 0.3


def static_int8(capture: Capture, batches: Sequence[Inputs], needs_logits: bool) -> Read:
    """Quantise weights and activations with ranges found on batches, and return a function from inputs to float32 outputs.

    The network itself does not change. Without ``needs_logits`` the graph ends at the last captured layer. A network is
    refused if its traced graph computes something else, or int8 outputs are more than 30 % away from the float32 ones.
    """
    _refuse_without_kernels(capture.model)
    try:
        graph = _trace(capture, batches[0], needs_logits)
        _check_equal(capture, graph, batches[0])
    except Exception as error:
        raise _refusal(capture.model, "cannot be traced by torch.fx", error) from error
    try:
        converted = _convert(graph, batches)
        _check_near(capture, converted, batches[0])
    except Exception as error:
        raise _refusal(capture.model, "cannot be quantised", error) from error
    return lambda inputs: _answer(capture, converted, inputs)


def quantise_dynamically(model: nn.Module) -> None:
    """Quantise, in place, the weights of linear and recurrent layers; the module's structure stays.

    Recurrent layers have their kernels in ``torch.ao`` only; they stay in float32 if PyTorch comes without it.
    """
    _refuse_without_kernels(model)
    made: dict[nn.Module, DynamicLinear] = {}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if type(layer) is nn.Linear and path:
            made.setdefault(layer, DynamicLinear(layer))
            model.set_submodule(path, made[layer])
    recurrent = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}
    if recurrent & {type(layer) for layer in model.modules()}:
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.filterwarnings("ignore", module=r"torch\.ao\..*")
            warnings.filterwarnings("ignore", message=".*torch.ao.quantization.*")
            from torch.ao.quantization import quantize_dynamic

            quantize_dynamic(model, recurrent, inplace=True)  # type: ignore[no-untyped-call]


def _refuse_without_kernels(model: nn.Module) -> None:
    device = first_parameter(model).device
    if device.type != "cpu":
        raise ValueError(
            f"PyTorch's int8 layers run only on the CPU, and the teacher is on {device}; use precision 'bf16' there."
        )
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        raise ValueError(
            "this build of PyTorch has no int8 kernels (oneDNN's); use precision 'bf16', or '32' with compile."
        )


def _refusal(model: nn.Module, what: str, error: Exception) -> ValueError:
    return ValueError(
        f"the teacher {type(model).__name__} {what}, so it cannot run in 'int8' ({first_line(error)}). Use precision "
        "'int8_dynamic' (networks of linear layers), 'bf16', or '32' with compile."
    )


class _ReadingTracer(fx.Tracer):
    """Records the inputs and outputs of captured modules, which the traced graph no longer has."""

    def __init__(self, wanted: Mapping[int, list[str]], clone: set[str], inputs: Inputs) -> None:
        super().__init__()
        self.wanted, self.clone, self.inputs = wanted, clone, inputs
        self.calls: dict[str, list[Any]] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # An argument that the inputs leave out keeps its default: a symbol would take the other branch of an
        # `if mask is not None`.
        given = _given_arguments(self.root, self.inputs)
        arguments = [
            self.create_proxy("placeholder", name, (), {}) if name in given else parameter.default
            for name, parameter in inspect.signature(self.root.forward).parameters.items()
            if parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
        return root_fn, [self.root, *arguments]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        keys = self.wanted.get(id(m), [])
        for key in keys:
            if key.endswith(":input"):
                self._remember(key, _first_proxy([*args, *kwargs.values()]))
        output = super().call_module(m, forward, args, kwargs)
        for key in keys:
            if not key.endswith(":input"):
                self._remember(key, output if isinstance(output, fx.Proxy) else _first_proxy(output))
        return output

    def _remember(self, key: str, value: Any) -> None:
        self.calls.setdefault(key, []).append(value.clone() if key in self.clone else value)


def _first_proxy(value: Any) -> fx.Proxy:
    values = value.values() if isinstance(value, Mapping) else value
    return next(item for item in values if isinstance(item, fx.Proxy))


def _trace(capture: Capture, inputs: Inputs, needs_logits: bool) -> fx.GraphModule:
    """Return the network as a graph with the result ``(output or None, features by layer)``."""
    model = capture.model
    modules = dict(model.named_modules(remove_duplicate=False))
    hidden = [layer for layer in capture.layers if hook_key(layer).endswith(":qkv")]
    if hidden:
        raise ValueError(
            f"{hidden[0]!r} cannot be read in a traced network; give the teacher's runtime another precision."
        )
    wanted: dict[int, list[str]] = {}
    for key in dict.fromkeys(map(hook_key, capture.layers)):
        wanted.setdefault(id(modules[layer_path(key)]), []).append(key)
    tracer = _ReadingTracer(wanted, capture.overwritten, inputs)
    graph = tracer.trace(model)
    features = {layer: tracer.calls[hook_key(layer)][chosen_call(layer) or 0].node for layer in capture.layers}
    (end,) = [node for node in graph.nodes if node.op == "output"]
    end.args = ((end.args[0] if needs_logits else None, features),)
    traced = fx.GraphModule(model, graph)
    if not needs_logits:
        graph.eliminate_dead_code()
    traced.recompile()
    return traced.eval()


def _given_arguments(model: nn.Module, inputs: Inputs) -> set[str]:
    """Return the names of the model's arguments that the inputs fill."""
    arguments, keywords = positions_and_names(inputs)
    signature = inspect.signature(model.forward)
    usual = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = set(signature.bind(*arguments, **keywords).arguments)
    unusual = [name for name, parameter in signature.parameters.items() if name in given and parameter.kind != usual]
    if unusual:
        raise ValueError(f"its forward takes {', '.join(unusual)} by a star or by keyword only")
    return given


def _pairs(capture: Capture, graph: nn.Module, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by name, each output of a graph and that of the network itself."""
    expected, got = capture.run(inputs), _answer(capture, graph, inputs)
    pairs = {f"layer {layer!r}": (got.features[layer], expected.features[layer]) for layer in capture.layers}
    return pairs | ({"the logits": (got.logits, expected.logits)} if got.logits.numel() else {})


def _check_equal(capture: Capture, traced: nn.Module, inputs: Inputs) -> None:
    pairs = _pairs(capture, traced, inputs).values()
    if not all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs):
        raise ValueError("its traced graph computes other values: its forward pass depends on its inputs")


def _check_near(capture: Capture, converted: nn.Module, inputs: Inputs) -> None:
    for name, (quantised, floating) in _pairs(capture, converted, inputs).items():
        far = float((quantised - floating).norm() / floating.norm().clamp_min(1e-12))
        if not far <= _MOST_FAR:
            raise ValueError(f"{name} would be {far:.0%} away from float32 on the calibration samples")


def _answer(capture: Capture, graph: nn.Module, inputs: Inputs) -> Outputs:
    raw, found = call_model(graph, inputs)
    features = {layer: _as_float(select_tensor(value)) for layer, value in found.items()}
    outputs = capture.arrange(raw, features)
    return outputs if raw is not None else replace(outputs, logits=next(iter(features.values())).new_zeros(0))


def _as_float(value: Tensor | None) -> Tensor:
    assert value is not None
    return value.dequantize() if value.is_quantized else value


def _convert(traced: fx.GraphModule, batches: Sequence[Inputs]) -> nn.Module:
    ranges = Ranges(traced)
    with torch.no_grad():
        for inputs in batches:
            arguments, keywords = positions_and_names(inputs)
            ranges(*arguments, **keywords)
        return lower(ranges)
