"""What changes things that others read is noticed, however it changes them; what changes nothing is let be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Arguments, Batch
from lit_distill.batch.snapshots import Snapshot, comparing_values
from lit_distill.batch.untouched import Guard, called_in_turn
from lit_distill.models import Ensemble


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


def test_a_network_that_writes_what_was_there_is_compared_by_values_from_then_on() -> None:
    guard, x = Guard(), torch.ones(2)
    with comparing_values():
        watch = guard.watch({"x": x})
    x.clamp_(0, 1)
    assert not guard.changes(watch)
    again = copy.deepcopy(guard).watch({"x": x})  # a copy shares what was found
    x.clamp_(0, 1)
    assert not guard.changes(again)
    last = guard.watch({"x": x})
    x.add_(1)
    assert guard.changes(last)


def test_it_is_looked_at_closely_once() -> None:
    guard, x = Guard(), torch.ones(2)
    found = []
    for key in ("val", "val", "test"):
        with guard.closely_once(key):
            watch = guard.watch({"x": x})
        x.data.add_(1)
        found.append(bool(guard.changes(watch)))
    assert found == [True, False, True]


class Shifts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(1)


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_who_is_refused_and_for_whom() -> None:
    x, big, y = torch.ones(2), torch.ones(2), torch.zeros(2)
    guard = Guard()
    words = r"the student Net changes what it is called with \(inputs: changed in place\)"
    with pytest.raises(ValueError, match=words), guard.student_on("Net", Batch(x, y), teacher=True):
        x.add_(1)
    with guard.student_on("Net", Batch(x, y), teacher=False):  # nobody else reads it
        x.add_(1)
    with guard.student_on("Net", Batch(x, y, teacher_inputs=big), teacher=True):
        x.add_(1)
    with (
        pytest.raises(ValueError, match="labels: changed in place"),
        guard.student_on("Net", Batch(x, y), teacher=False),
    ):
        y.add_(1)
    with pytest.raises(ValueError, match="the teacher Big"), guard.teacher_on("Big", Batch(x, y)):
        x.add_(1)
    with guard.teacher_on("Big", Batch(x, y, teacher_inputs=big)):  # its own entry
        big.add_(1)


def test_members_one_after_the_other() -> None:
    x = torch.ones(2)
    with pytest.raises(ValueError, match=r"member 0 changes what it is called with \(inputs\[0\]: changed in place\)"):
        called_in_turn([Shifts(), Plain()], Guard(), "member", (x,), {})
    called_in_turn([Plain(), Shifts()], Guard(), "member", (x,), {})  # none comes after the last
    with pytest.raises(ValueError, match="member 1"):
        Ensemble([Plain(), Shifts(), Plain()], average="logits")(torch.ones(2, 3))
    traced = torch.fx.symbolic_trace(Ensemble([Plain(), Plain()], average="logits"))
    assert torch.equal(traced(torch.ones(2, 3)), 2 * torch.ones(2, 3))
