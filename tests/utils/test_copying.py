"""Copying networks that hold something that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_distill.utils.copying import copied


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside


def test_a_plain_network_is_copied_as_ever() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    twin = copied(network)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(network.parameters(), twin.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_normalised_weights(norm: Any) -> None:
    network = nn.Sequential(norm(nn.Linear(3, 2)))
    network(torch.randn(4, 3)).sum()
    twin, x = copied(network), torch.randn(4, 3)
    assert torch.equal(twin.eval()(x), network.eval()(x))
    twin.train()(x).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    "place",
    [
        lambda one: one,
        lambda one: [one],
        lambda one: {"a": (one, 1)},
        lambda one: OrderedDict(a=one),
        lambda one: Slotted(Slotted(one)),
    ],
)
def test_what_cannot_be_copied_is_shared_wherever_it_is(place: Any) -> None:
    network = nn.Linear(2, 2)
    lock = threading.RLock()
    network.held = place(lock)
    twin = copied(network)
    found = twin.held
    while found is not lock:
        found = (
            found.inside
            if isinstance(found, Slotted)
            else next(iter(found.values() if isinstance(found, dict) else found))
        )
    assert twin.weight is not network.weight


def test_open_files_generators_and_tensors_of_a_step(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    with (tmp_path / "log.txt").open("w") as file:
        network.file, network.numbers = file, (n for n in range(3))
        network.losses = [network(torch.ones(1, 2)).sum()]
        twin = copied(network)
        assert twin.file is file
        assert twin.numbers is network.numbers
    assert torch.equal(twin.losses[0], network.losses[0])
    assert twin.losses[0].grad_fn is None


def test_what_is_copied_together_belongs_together() -> None:
    network = nn.Linear(2, 2)
    network.lock = threading.Lock()
    network.bound = network.extra_repr
    twin, listed, shared = copied((network, [network.weight], torch.ones(1)))
    assert listed[0] is twin.weight
    assert twin.bound.__self__ is twin
    assert torch.equal(shared, torch.ones(1))


def test_what_is_to_be_shared() -> None:
    inner, lock = nn.Linear(2, 2), threading.Lock()
    outer = nn.Sequential(inner)
    outer.lock = lock
    assert copied(outer, [inner])[0] is inner


def test_its_own_error_where_nothing_helps() -> None:
    class Single:
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("there is one alone")

    network = nn.Linear(2, 2)
    network.single = Single()
    with pytest.raises(RuntimeError, match="there is one alone"):
        copied(network)
