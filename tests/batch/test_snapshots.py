"""Snapshots: every change of what somebody else reads is found, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_distill.batch.batch import Arguments
from lit_distill.batch.snapshots import Snapshot


def write_numpy(x: Tensor) -> None:
    x.numpy()[0] = 7


COUNTED: dict[str, Callable[[Tensor], Any]] = {
    "sub_": lambda x: x.sub_(1),
    "a view": lambda x: x.view(-1).mul_(2),
    "a slice": lambda x: x[:1].zero_(),
    "detached": lambda x: x.detach().add_(1),
    "relu_": torch.relu_,
    "set": lambda x: x.__setitem__((0, 0), 5.0),
}
HIDDEN: dict[str, Callable[[Tensor], Any]] = {
    ".data": lambda x: x.data.add_(1),
    ".data replaced": lambda x: setattr(x, "data", x.data + 1),
    "NumPy": write_numpy,
}


@pytest.mark.parametrize("how", [*COUNTED, *HIDDEN])
@pytest.mark.parametrize("closely", [True, False])
def test_writes_are_noticed(how: str, closely: bool) -> None:
    x = torch.randn(2, 3)
    watch = Snapshot({"inputs": {"image": x}}, closely)
    (COUNTED | HIDDEN)[how](x)
    found = [str(change) for change in watch.changes()]
    assert found == (["inputs['image']: changed in place"] if closely or how in COUNTED else [])


def test_in_inference_mode_values_tell() -> None:
    with torch.inference_mode():
        x = torch.ones(2)
        far, near = Snapshot({"x": x}), Snapshot({"x": x}, closely=True)
        x.add_(1)
        assert not far.changes()
        assert near.changes()


@pytest.mark.parametrize("closely", [True, False])
def test_nothing_is_said_of_what_is_as_it_was(closely: bool) -> None:
    x = torch.tensor([1.0, float("nan")])
    values = {"inputs": [x, {"names": ["a", "b"], "n": 3, "nan": float("nan")}], "labels": np.arange(3)}
    watch = Snapshot(values, closely)
    torch.relu(x).add_(1)
    values["inputs"][1]["new"] = torch.ones(1)  # beside what was there
    values["inputs"][0] = x.clone()  # another tensor that holds the same
    assert not watch.changes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda batch: batch.pop("x"), "inputs[0]['x']: taken out"),
        (lambda batch: batch.update(x=batch["x"] + 1), "inputs[0]['x']: replaced"),
        (lambda batch: batch.update(x=batch["x"].double()), "inputs[0]['x']: replaced"),
        (lambda batch: batch["names"].append("c"), "inputs[0]['names']: replaced"),
        (lambda batch: setattr(batch["graph"], "edges", torch.ones(2)), "inputs[0]['graph'].edges: replaced"),
        (lambda batch: batch.update(n=4), "inputs[0]['n']: replaced"),
    ],
)
def test_entries_of_objects(change: Callable[[Any], Any], words: str) -> None:
    batch = {"x": torch.ones(2), "names": ["a", "b"], "n": 3, "graph": SimpleNamespace(edges=torch.zeros(2))}
    for closely in (True, False):
        ours = copy.deepcopy(batch)
        watch = Snapshot({"inputs": Arguments((ours,), {})}, closely)
        change(ours)
        assert [str(found) for found in watch.changes()] == [words]
