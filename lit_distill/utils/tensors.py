"""The tensors of a network: by name, by optimizer, and how many of their values are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lit_distill.utils.names import listed


def not_finite(network: nn.Module) -> str | None:
    """Return which weights and buffers of a network hold NaN or infinity, in words; None if none does."""
    found = [name for name, one in named_tensors(network) if count_where(one, lambda values: ~torch.isfinite(values))]
    return f"has weights that are not finite: {listed(found)}" if found else None


def named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers that are initialised."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not is_lazy(tensor):
            yield name, tensor


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def first_parameter(network: nn.Module) -> Tensor:
    """Return a network's first parameter, for its device and type; an empty tensor on the CPU if it has none."""
    return next(iter(network.parameters()), torch.empty(0))


def parameters_in(optimizers: Iterable[Optimizer]) -> set[int]:
    """Return the ids of the parameters that optimizers hold."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def count_where(tensor: Tensor, test: Callable[[Tensor], Tensor]) -> int:
    """Count the values of a float tensor that pass ``test``; 0 for one that holds none yet."""
    usable = tensor.is_floating_point() and not is_lazy(tensor) and tensor.layout == torch.strided
    if not usable or tensor.device.type == "meta":
        return 0
    return int(test(tensor.detach()).sum())


def zero_through(tensors: Iterable[Tensor]) -> Tensor:
    """Return the scalar 0 with a gradient of 0 for each tensor, even if it holds NaN or infinity."""
    nothing = [(tensor if tensor.dim() else tensor.reshape(1))[:0] for tensor in tensors]
    return torch.stack([empty.sum().float() for empty in nothing]).sum()


def usual_layout(tensor: Tensor) -> Tensor:
    """Return a tensor in the usual layout in memory; itself if it has that.

    ``Tensor.contiguous`` keeps the strides of the channels-last layout where sizes are 1, as in weights of 1x1 convolutions.
    """
    if tensor.layout != torch.strided or tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
