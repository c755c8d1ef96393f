"""The time of a forward pass, and how it spreads."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, call_model
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.tensors import first_parameter

_BLOCK = 0.01  # seconds of passes that one measurement averages: the clock and the loop cost little beside it


@dataclass(frozen=True)
class Latency:
    """The time of a forward pass in evaluation.

    Attributes:
        batch: Samples in the pass.
        threads: Of the CPU.
        device: On which it ran.
        median_ms: Milliseconds of a pass.
        low_ms: Milliseconds that a quarter of the measurements stay below.
        high_ms: Milliseconds that a quarter of the measurements exceed.
        runs: Measurements.
    """

    batch: int
    threads: int
    device: str
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int

    @property
    def setting(self) -> tuple[int, int, str]:
        """Batch, threads and device: times with the same setting can be compared."""
        return self.batch, self.threads, self.device


def latencies(
    networks: Mapping[str, tuple[nn.Module, Inputs]],
    batch: int = 1,
    threads: int = 1,
    seconds: float = 0.2,
    turns: int = 1,
    enough: float = math.inf,
) -> dict[str, Latency]:
    """Measure networks in turns, so that what else the machine does meets all of them alike.

    Args:
        networks: By name, each with its inputs on its device.
        batch: Samples in the inputs, for the record.
        threads: Of the CPU.
        seconds: To measure each network for in a turn, at the least.
        turns: Their number.
        enough: Seconds after which no further turn begins.

    Example:
        >>> found = latencies({"linear": (nn.Linear(4, 2), torch.zeros(1, 4))}, seconds=0.01)["linear"]
        >>> 0 < found.low_ms <= found.median_ms <= found.high_ms
        True
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it would say where CUDA may be
    times: dict[str, list[float]] = {name: [] for name in networks}
    begun = time.perf_counter()
    for turn in range(turns):
        if turn and time.perf_counter() - begun > enough:
            break
        for name, (network, inputs) in networks.items():
            times[name] += _times(network, inputs, threads, seconds)
    return {name: _summary(batch, threads, network, times[name]) for name, (network, _) in networks.items()}


def _times(network: nn.Module, inputs: Inputs, threads: int, seconds: float) -> list[float]:
    """Return milliseconds of a forward pass, as the mean of each of some short blocks."""
    from torch.utils.benchmark import Timer

    names = {"call": call_model, "network": network, "inputs": inputs}
    timer = Timer("call(network, inputs)", globals=names, num_threads=threads)
    found: list[float] = []
    with torch.inference_mode(), as_in_evaluation(network):
        repeats = max(1, int(_BLOCK / timer.timeit(1).mean))  # timeit warms up first
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            found.append(1000 * timer.timeit(repeats).mean)
    return found


def _summary(batch: int, threads: int, network: nn.Module, times: Sequence[float]) -> Latency:
    quartiles = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
    low, middle, high = quartiles
    return Latency(batch, threads, device_name(first_parameter(network)), middle, low, high, len(times))


def device_name(weights: Tensor) -> str:
    """Return the device of a network's weights as people call it."""
    if weights.device.type == "cuda":
        return str(torch.cuda.get_device_name(weights.device))
    return weights.device.type
