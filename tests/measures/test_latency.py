"""Latencies of networks that take a known time."""

from __future__ import annotations

import time
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_distill.measures import latencies


class Sleeps(nn.Module):
    """Takes a number of milliseconds, and counts its calls."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds, self.threads = milliseconds, set[int]()
        self.order: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        self.order.append(time.perf_counter())
        time.sleep(self.milliseconds / 1000)
        return x


def test_it_measures_milliseconds_and_their_spread() -> None:
    found = latencies({"one": (Sleeps(2), torch.zeros(1)), "two": (Sleeps(6), torch.zeros(1))}, seconds=0.3)
    assert 2 <= found["one"].low_ms <= found["one"].median_ms <= found["one"].high_ms
    assert found["two"].median_ms >= 6
    assert found["one"].runs > 1
    assert found["one"].setting == (1, 1, "cpu")


def test_networks_take_turns() -> None:
    one, two = Sleeps(1), Sleeps(1)
    latencies({"one": (one, torch.zeros(1)), "two": (two, torch.zeros(1))}, seconds=0.001, turns=3)
    order = [name for _, name in sorted([(at, "one") for at in one.order] + [(at, "two") for at in two.order])]
    assert sum(left != right for left, right in pairwise(order)) == 5


def test_no_turn_begins_after_enough() -> None:
    found = latencies({"slow": (Sleeps(20), torch.zeros(1))}, seconds=0.001, turns=1000, enough=0.05)
    assert found["slow"].runs < 10


def test_the_threads_are_those_asked_for() -> None:
    network, before = Sleeps(0), torch.get_num_threads()
    assert latencies({"": (network, torch.zeros(1))}, threads=2, seconds=0.001)[""].threads == 2
    assert network.threads == {2}
    assert torch.get_num_threads() == before
