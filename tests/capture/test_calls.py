"""Reading a model's calls where somebody else makes them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Arguments
from lit_distill.capture.call import Call
from lit_distill.capture.calls import Listener
from lit_distill.capture.capture import Capture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * scale


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def listener(model: Net) -> Listener:
    return Listener(Capture(model, ["first"]))


def test_a_call_is_read_as_a_run_would_read_it(model: Net, listener: Listener) -> None:
    x = torch.randn(5, 3)
    with listener.listen() as calls:
        out = model(x)
    (call,) = calls
    read = listener.read(call)
    assert read.logits is out
    run = Capture(model, ["first"]).run(x)
    assert torch.equal(read.features["first"], run.features["first"])
    assert read.features["first"].requires_grad


@pytest.mark.parametrize(
    ("arguments", "named", "expected"),
    [
        ((torch.ones(2, 3),), {}, Tensor),
        ((torch.ones(2, 3), None, 2.0), {}, tuple),
        ((), {"x": torch.ones(2, 3)}, dict),
        ((torch.ones(2, 3),), {"scale": 2.0}, Arguments),
    ],
)
def test_inputs_are_given_on_as_they_came(
    model: Net, listener: Listener, arguments: tuple, named: dict, expected: type
) -> None:
    with listener.listen() as calls:
        out = model(*arguments, **named)
    assert isinstance(calls[0].inputs, expected)
    assert torch.equal(Capture(model).run(calls[0].inputs).logits, out)


def test_nothing_is_read_outside(model: Net, listener: Listener) -> None:
    model(torch.ones(2, 3))
    with listener.listen() as calls:
        pass
    model(torch.ones(2, 3))
    assert calls == []
    assert not listener.capture.store.calls


def test_calls_are_told_apart(model: Net, listener: Listener) -> None:
    first, second = torch.randn(2, 3), torch.randn(4, 3)
    with listener.listen() as calls:
        model(first)
        with torch.no_grad():
            model(second)
    assert [call.with_grad for call in calls] == [True, False]
    sizes = [listener.read(call, dry=True).features["first"].shape[0] for call in calls]
    assert sizes == [2, 4]


def test_a_mask_is_found_by_its_name(model: Net, listener: Listener) -> None:
    mask = torch.tensor([[1, 0]])
    with listener.listen() as calls:
        model(torch.ones(1, 3), attention_mask=mask)
        model(torch.ones(1, 3))
    assert calls[0].mask is not None
    assert calls[0].mask.tolist() == [[True, False]]
    assert calls[1].mask is None


def test_an_error_of_the_model_leaves_nothing_on(model: Net, listener: Listener) -> None:
    with pytest.raises(RuntimeError), listener.listen():
        model(torch.ones(2, 99))
    assert not listener.capture.store.recording
    assert Capture(model, ["first"]).run(torch.ones(2, 3)).features["first"].shape == (2, 4)


def test_inputs_changed_in_place(model: Net, listener: Listener) -> None:
    x = torch.ones(2, 3)
    with listener.listen() as calls:
        model(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        listener.read(calls[0])


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_listens_to_its_own_model(model: Net, listener: Listener, how: str) -> None:
    pair = (model, listener)
    twin, ear = copy.deepcopy(pair) if how == "copied" else pickle.loads(pickle.dumps(pair))
    with ear.listen() as theirs, listener.listen() as ours:
        twin(torch.ones(2, 3))
    assert len(theirs) == 1
    assert ours == []


def test_removed(model: Net, listener: Listener) -> None:
    listener.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_forward_called_directly_is_heard_once(model: Net, listener: Listener) -> None:
    x = torch.randn(5, 3)
    before = dict(vars(model))
    with listener.listen() as calls:
        out = model.forward(x, scale=2.0)
        model(x)
    assert len(calls) == 2
    read = listener.read(calls[0])
    assert read.logits is out
    assert read.features["first"].shape == (5, 4)
    assert dict(vars(model)) == before


def test_an_error_in_forward_leaves_nothing_on(model: Net, listener: Listener) -> None:
    before = dict(vars(model))
    with pytest.raises(RuntimeError), listener.listen():
        model.forward(torch.ones(2, 99))
    assert dict(vars(model)) == before
    assert not listener.capture.store.recording


def test_a_forward_that_was_set_on_the_instance_is_put_back(model: Net, listener: Listener) -> None:
    own = model.forward
    vars(model)["forward"] = own
    with listener.listen() as calls:
        model(torch.ones(2, 3))
    assert len(calls) == 1
    assert vars(model)["forward"] is own


class TestParts:
    def heard(self, listener: Listener, step: Callable[[], object], names: list[str] | None = None) -> list[Call]:
        listener.hear_parts(names)
        with listener.listen() as calls:
            step()
        return calls

    def test_one_after_another_they_are_one_call(self, model: Net, listener: Listener) -> None:
        x = torch.randn(5, 3)
        (call,) = self.heard(listener, lambda: model.second(torch.tanh(model.first(x))))
        read = listener.read(call)
        assert call.parts == ("first", "second")
        assert call.inputs is x
        assert torch.equal(read.logits, model(x))
        assert read.features["first"].requires_grad

    def test_without_gradients_a_view_is_known(self, model: Net, listener: Listener) -> None:
        with torch.no_grad():
            (call,) = self.heard(listener, lambda: model.second(model.first(torch.ones(2, 3)).view(2, 4)))
        assert call.parts == ("first", "second")

    def test_a_call_of_the_whole_comes_before_them(self, model: Net, listener: Listener) -> None:
        calls = self.heard(listener, lambda: (model.first(torch.ones(2, 3)), model(torch.ones(2, 3))))
        assert [call.parts for call in calls] == [()]
        assert listener.refusal is None

    def test_others_than_those_named_are_not_heard(self, model: Net, listener: Listener) -> None:
        (call,) = self.heard(listener, lambda: model.second(model.first(torch.ones(2, 3))), ["second"])
        assert call.parts == ("second",)

    def test_losses_and_metrics_are_no_parts(self, listener: Listener, model: Net) -> None:
        model.criterion = nn.CrossEntropyLoss()
        y = torch.tensor([0, 1])
        (call,) = self.heard(listener, lambda: model.criterion(model.second(model.first(torch.ones(2, 3))), y))
        assert call.parts == ("first", "second")

    def test_a_part_that_fails_leaves_the_rest_heard(self, model: Net, listener: Listener) -> None:
        def step() -> None:
            with pytest.raises(RuntimeError):
                model.first(torch.ones(2, 99))
            model(torch.ones(2, 3))

        assert len(self.heard(listener, step)) == 1

    def test_removed(self, model: Net, listener: Listener) -> None:
        listener.hear_parts()
        listener.remove()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
