"""What a network costs: its parameters, its bytes, and the time of one sample."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lit_distill.batch.batch import Inputs, call_model
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.tensors import count_parameters, first_parameter, named_tensors

_SECONDS = 0.2  # to measure for


@dataclass(frozen=True)
class Measures:
    """What a network costs.

    Attributes:
        parameters: Their number.
        size_bytes: Of parameters and buffers.
        latency_ms: Milliseconds for one sample, in evaluation: the median.
        device: On which it was measured.
        threads: Of the CPU.
    """

    parameters: int
    size_bytes: int
    latency_ms: float
    device: str
    threads: int


def measure(network: nn.Module, inputs: Inputs, threads: int) -> Measures:
    """Measure a network on inputs of one or more samples, of which it gets the first."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it would say where CUDA may be
    from torch.utils.benchmark import Timer

    weights = first_parameter(network)
    one = tree_map(lambda value: _first(value, weights), inputs)
    with torch.inference_mode(), as_in_evaluation(network):
        timer = Timer(
            "call(network, inputs)",
            globals={"call": call_model, "network": network, "inputs": one},
            num_threads=threads,
        )
        latency = 1000 * timer.blocked_autorange(min_run_time=_SECONDS).median
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in named_tensors(network))
    return Measures(count_parameters(network), size, latency, _device(weights), threads)


def _first(value: Any, weights: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (value[:1] if value.dim() else value).to(weights.device)


def _device(weights: Tensor) -> str:
    return torch.cuda.get_device_name(weights.device) if weights.device.type == "cuda" else weights.device.type
