"""What a network costs: its parameters, its bytes, and the time of one sample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lit_distill.batch.batch import Inputs, count_samples
from lit_distill.measures.cost import size_of
from lit_distill.measures.latency import latencies
from lit_distill.measures.samples import one_sample
from lit_distill.utils.tensors import count_parameters, first_parameter

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
    one = one_sample(inputs, count_samples(inputs) or 1, first_parameter(network).device)
    found = latencies({"": (network, one)}, threads=threads, seconds=_SECONDS)[""]
    return Measures(count_parameters(network), size_of(network), found.median_ms, found.device, threads)
