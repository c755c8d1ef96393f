"""What changes things that others read is noticed, however it changes them; what changes nothing is let be."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Batch
from lit_distill.batch.snapshots import comparing_values
from lit_distill.batch.untouched import Guard, called_in_turn
from lit_distill.models import Ensemble


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
    with pytest.raises(ValueError, match=words), guard.running("the student Net", Batch(x, y), x):
        x.add_(1)
    with guard.running("the student Net", Batch(x, y), None):  # nobody else reads it
        x.add_(1)
    with guard.running("the student Net", Batch(x, y, teacher_inputs=big), big):
        x.add_(1)
    with (
        pytest.raises(ValueError, match="labels: changed in place"),
        guard.running("the student Net", Batch(x, y), None),
    ):
        y.add_(1)
    with pytest.raises(ValueError, match="the teacher Big"), guard.running("the teacher Big", Batch(x, y), x):
        x.add_(1)
    with guard.running("the teacher Big", Batch(x, y, teacher_inputs=big), x):  # its own entry
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
