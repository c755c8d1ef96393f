"""What each of the three networks costs to run, measured in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lit_distill.batch.batch import Batch, Inputs
from lit_distill.measures import Cost, Latency, cost_of, latencies, one_sample, some_samples
from lit_distill.reporting.sides import CONTROL, STUDENT, Role, Side
from lit_distill.utils.tensors import first_parameter

_TURNS = 5
_ENOUGH = 8  # times as many seconds as asked for, after which no further turn begins


@dataclass(frozen=True)
class RunCost:
    """What running a network costs.

    Attributes:
        cost: What is counted.
        latencies: By batch, and then by threads.
    """

    cost: Cost
    latencies: tuple[Latency, ...]


def run_costs(sides: Sequence[Side], example: Batch, batch_size: int, seconds: float = 0.5) -> dict[Role, RunCost]:
    """Measure each network with one sample and with a batch, on one thread of the CPU and on all.

    A control of the student's architecture is not measured: it costs what the student costs.

    Args:
        sides: The networks; one without a network of its own is left out.
        example: A batch of the test data, whose samples are repeated where it has too few.
        batch_size: Samples of the larger batch.
        seconds: To time each network for in a setting, at the least.
    """
    student = next(side for side in sides if side.role == STUDENT)
    measured = [side for side in sides if side.network is not None and not _is_twin(side, student)]
    found: dict[Role, list[Latency]] = {side.role: [] for side in measured}
    for batch in sorted({1, batch_size}):
        networks = {str(side.role): _with_inputs(side, example, batch) for side in measured}
        for threads in _threads(student):
            times = latencies(networks, batch, threads, seconds / _TURNS, _TURNS, _ENOUGH * seconds)
            for role, kept in found.items():
                kept.append(times[role])
    costs = {side.role: RunCost(_counted(side, example), tuple(found[side.role])) for side in measured}
    return {**costs, CONTROL: costs.get(CONTROL, costs[STUDENT])}


def _counted(side: Side, example: Batch) -> Cost:
    assert side.network is not None
    return cost_of(side.network, one_sample(side.inputs(example), example.size, _device(side.network)))


def _with_inputs(side: Side, example: Batch, count: int) -> tuple[nn.Module, Inputs]:
    assert side.network is not None
    try:
        return side.network, some_samples(side.inputs(example), example.size, count, _device(side.network))
    except ValueError as error:
        raise ValueError(f"the latency of the {side.role} cannot be measured: {error}") from error


def _threads(student: Side) -> list[int]:
    """Return the numbers of CPU threads to measure with; elsewhere they do not matter."""
    assert student.network is not None
    every = torch.get_num_threads()
    return sorted({1, every}) if _device(student.network).type == "cpu" else [every]


def _device(network: nn.Module) -> torch.device:
    return first_parameter(network).device


def _is_twin(side: Side, student: Side) -> bool:
    """Return True for a control of the student's architecture."""
    if side.role != CONTROL or side.network is None or student.network is None:
        return False
    return str(side.network) == str(student.network) and _shapes(side.network) == _shapes(student.network)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}
