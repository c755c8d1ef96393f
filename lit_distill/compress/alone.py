"""Ways to compress one layer alone, for as long as a block runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs
from lit_distill.compress.layers import output_layers, output_shapes
from lit_distill.models.pruned import dependency_graph, torch_pruning, traceable
from lit_distill.utils.copying import copied

Way = Literal["int8", "int8_weights", "prune"]
Range = tuple[float, float]
_LEVELS = 127  # of a weight, to each side


def weight_axis(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that holds its output channels."""
    return int(bool(getattr(layer, "transposed", False)))


def fake_int8(weight: Tensor, axis: int = 0) -> Tensor:
    """Round weights to int8, symmetric, with one scale for each output channel; the result is float again.

    Args:
        weight: Of a convolution or a linear layer.
        axis: The dimension of the output channels.

    Example:
        >>> fake_int8(torch.tensor([[1.27, 0.014], [0.1, 0.0]]))
        tensor([[1.2700, 0.0100],
                [0.1000, 0.0000]])
    """
    largest = weight.detach().abs().amax([dim for dim in range(weight.dim()) if dim != axis])
    scale = torch.where(largest > 0, largest, 1.0) / _LEVELS
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.detach(), scale, zero, axis, -_LEVELS, _LEVELS)


@contextmanager
def quantised(layer: nn.Module, inputs: Range | None) -> Iterator[None]:
    """Round a layer's weights to int8, and its inputs to 256 levels of a range if there is one."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    before = weight.detach().clone()
    low, high = (min(inputs[0], 0.0), max(inputs[1], 0.0)) if inputs is not None else (0.0, 0.0)
    step = (high - low) / 255
    handle = None
    if step > 0:
        zero = round(-low / step)

        def round_inputs(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            return (torch.fake_quantize_per_tensor_affine(given[0], step, zero, 0, 255), *given[1:])

        handle = layer.register_forward_pre_hook(round_inputs)
    try:
        with torch.no_grad():
            weight.copy_(fake_int8(weight, weight_axis(layer)))
        yield
    finally:
        if handle is not None:
            handle.remove()
        with torch.no_grad():
            weight.copy_(before)


def input_ranges(network: nn.Module, layers: Sequence[str], run: Callable[[], None]) -> dict[str, Range]:
    """Return the smallest and largest input of each layer while ``run`` runs the network."""
    found: dict[str, Range] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            low, high = found.get(name, (math.inf, -math.inf))
            found[name] = (min(low, float(given[0].min())), max(high, float(given[0].max())))

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(note(name)) for name in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def pruned_alone(network: nn.Module, layer: str, inputs: Inputs, ratio: float) -> nn.Module:
    """Return a copy without the least important channels of one layer, and what depends on them.

    Raises:
        ValueError: The layer makes the outputs, or cannot be pruned.
    """
    package, copy = torch_pruning(), copied(network)
    target = copy.get_submodule(layer)
    with traceable(copy):
        if layer in output_layers(copy, inputs):
            raise ValueError("it makes the outputs")
        shapes = output_shapes(copy, inputs, "")
        try:
            graph = dependency_graph(copy, inputs)
            take = graph.get_pruner_of_module(target).prune_out_channels
            group = graph.get_pruning_group(target, take, list(range(graph.get_out_channels(target))))
            scores = package.importance.GroupMagnitudeImportance()(group)
            groups = max(graph.get_pruner_of_module(dep.layer).get_in_channel_groups(dep.layer) for dep, _ in group)
            if groups > 1 and groups != len(scores):
                raise ValueError("its channels feed a grouped convolution")
            gone = scores.argsort()[: round(ratio * len(scores))].tolist()
            graph.get_pruning_group(target, take, gone).prune()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"torch-pruning cannot prune it ({type(error).__name__})") from error
        if output_shapes(copy, inputs, "What follows has a fixed width") != shapes:
            raise ValueError("the outputs would change their shape")
    return copy
