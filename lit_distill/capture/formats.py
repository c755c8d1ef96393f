"""Networks with fewer abilities than a Python module: exported programs, TorchScript, weights of other types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from lit_distill.batch.batch import Arguments, Inputs, tensors_of
from lit_distill.utils.arguments import check_network, check_sizes
from lit_distill.utils.notices import warn

_OTHER_SIZE = ("Guard failed", "Expected input", "expected shape")
_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized")
_MODES = {"dropout": 2, "batch_norm": 5}  # the argument of PyTorch's operators that holds the training mode


def is_exported(module: nn.Module) -> bool:
    """Return True for a program of ``torch.export``, whose layers and mode are part of its graph."""
    return isinstance(module, fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    )


def is_scripted(module: nn.Module) -> bool:
    """Return True for TorchScript, whose layers Python hooks cannot read."""
    return isinstance(module, torch.jit.ScriptModule)


def format_of(module: nn.Module) -> str | None:
    """Name the format of a module; None for a Python module."""
    if is_scripted(module):
        return "a TorchScript module"
    return "a program of torch.export" if is_exported(module) else None


def set_mode(model: nn.Module, training: bool) -> None:
    """Put a network in train or eval mode, except exported parts, whose mode is fixed."""
    try:
        model.train(training)
    except NotImplementedError:
        for part in model.modules():
            if not _mode_is_fixed(part):
                part.training = training


def require_gradients(model: nn.Module, wanted: bool) -> None:
    """Set ``requires_grad`` of a network's parameters; ``Module.requires_grad_`` fails for TorchScript."""
    for parameter in model.parameters():
        parameter.requires_grad_(wanted)


def freeze(model: nn.Module) -> nn.Module:
    """Put a network in eval mode and turn off its parameters' gradients, in any format; refuse what is no network."""
    check_network("the teacher", model)
    check_sizes("teacher", model)
    set_mode(model, False)
    require_gradients(model, False)
    for part in model.modules():
        if is_exported(part) and _trains(part):
            warn(
                f"the teacher {_name(model)} was exported in training mode: its dropout or BatchNorm stays active. "
                "Export it again after model.eval()."
            )
    return model


@contextmanager
def explaining_fixed_sizes(model: nn.Module) -> Iterator[None]:
    """Explain the error of an exported program whose inputs have another size than in the export."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if not any(sign in str(error) for sign in _OTHER_SIZE) or not any(map(is_exported, model.modules())):
            raise
        raise ValueError(
            f"the teacher {_name(model)} was exported for inputs of another size ({str(error).splitlines()[0]}): export it "
            "with dynamic_shapes, for one input ({0: torch.export.Dim('batch')},)."
        ) from error


def refuse_fixed_mode(model: nn.Module, owner: str) -> None:
    """Refuse to train a network that is, or holds, an exported program, which cannot be put in train mode."""
    if any(_mode_is_fixed(part) for part in model.modules()):
        raise ValueError(
            f"the {owner} {_name(model)} is a program of torch.export, which has no train mode, so it cannot be trained; "
            "give the network that it was exported from, and export that afterwards."
        )


def refuse_hidden_layers(model: nn.Module, layers: Iterable[str], owner: str) -> None:
    """Refuse layers, by their paths, that hooks cannot read: those inside TorchScript or an exported program."""
    for layer in layers:
        module, inside = model, []
        for name in filter(None, layer.split(".")):
            inside.append(module)
            module = getattr(module, name)
        hidden = [*inside, module] if is_scripted(module) else inside  # TorchScript takes no hook either
        kind = next(filter(None, map(format_of, hidden)), None)
        if kind is not None:
            raise ValueError(
                f"the {owner}'s layer {layer!r} cannot be read: the {owner} is {kind}, of which only the output can be "
                "read. Use criteria on logits, or give the Python network that it was made from."
            )


def runs_in_a_graph(model: nn.Module) -> bool:
    """Return True if all that a Python module computes is an exported program inside, as in quantisation-aware training."""
    parts = list(model.children())
    return bool(parts) and all(map(is_exported, parts))


def refuse_layers_in_a_graph(model: nn.Module, owner: str, criteria: Iterable[str]) -> None:
    """Refuse criteria, by name, that read layers of a network that runs in a graph."""
    reading = list(criteria)
    if reading and runs_in_a_graph(model):
        raise ValueError(
            f"criterion {reading[0]!r} reads layers of the {owner} {_name(model)}, which runs as an exported graph that calls "
            "none of its modules: hooks do not fire there, and nothing would be read. In quantisation-aware training, use "
            "criteria on logits, and those on features in an earlier link."
        )


def _mode_is_fixed(module: nn.Module) -> bool:
    if is_scripted(module) or "train" not in vars(module):
        return False
    try:
        module.train(module.training)
    except NotImplementedError:
        return True
    return False


def _trains(program: nn.Module) -> bool:
    assert isinstance(program, fx.GraphModule)
    for node in program.graph.nodes:
        place = next((place for name, place in _MODES.items() if name in str(node.target)), None)
        if place is not None and node.op == "call_function" and len(node.args) > place and node.args[place] is True:
            return True
    return False


def _name(model: nn.Module) -> str:
    return str(getattr(model, "original_name", type(model).__name__))


# Types and weights ---------------------------------------------------------------------------------------------------


def floating_type(model: nn.Module) -> torch.dtype | None:
    """Return the type of a network's first floating-point or complex parameter or buffer (of a complex one, its parts' type).

    None without any, except float32 for PyTorch's quantised layers, which have no such tensors.
    """
    tensors = (tensor for tensor in _weights(model) if tensor.is_floating_point() or tensor.is_complex())
    found = next((tensor.dtype.to_real() for tensor in tensors), None)
    return torch.float32 if found is None and has_packed_weights(model) else found


def own_precision(model: nn.Module, inputs: Inputs) -> AbstractContextManager[None]:
    """Turn off the Trainer's autocast for a network with its own precision: another type than float32, or int8."""
    if floating_type(model) in (None, torch.float32) and not has_packed_weights(model):
        return nullcontext()
    device = next((tensor.device for tensor in tensors_of(inputs)), torch.device("cpu"))
    return torch.autocast(device.type, enabled=False)


def has_packed_weights(model: nn.Module) -> bool:
    """Return True if a part of a network is one of PyTorch's quantised layers, which hold no parameters."""
    return any(type(part).__module__.startswith(_QUANTISED) for part in model.modules())


def _weights(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def weights_mark(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return a mark that differs once weights or buffers were changed in place, replaced or moved; cheap enough per batch.

    Changes through ``.data`` do not show.
    """
    return tuple((_place(tensor), -1 if tensor.is_inference() else tensor._version) for tensor in _weights(model))


def _place(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided else id(tensor)  # a sparse tensor has no single memory


def moved(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap the function that ``nn.Module.to`` applies, which moves tensors and may convert them, to only move them."""

    def move(tensor: Tensor) -> Tensor:
        probe = fn(torch.empty(0, dtype=tensor.dtype, device=tensor.device))
        return fn(tensor) if probe.dtype == tensor.dtype else tensor.to(probe.device)

    return move


def cast_floats(value: Any, dtype: torch.dtype | None) -> Any:
    """Cast the floating-point tensors of nested inputs like ``map_tensors``; a type of None casts nothing."""
    if dtype is None:
        return value
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, value)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to each tensor in mappings, tuples, lists, ``Arguments`` and dataclasses; other values do not change."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Arguments):
        return Arguments(map_tensors(function, value.positional), map_tensors(function, value.named))
    if isinstance(value, Mapping):
        return {key: map_tensors(function, entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        mapped = [map_tensors(function, entry) for entry in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{name: map_tensors(function, entry) for name, entry in entries.items()})
    return value
