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
from lit_distill.capture.calls import CallRecorder
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
def recorder(model: Net) -> CallRecorder:
    return CallRecorder(Capture(model, ["first"]))


def test_a_call_is_read_as_a_run_would_read_it(model: Net, recorder: CallRecorder) -> None:
    x = torch.randn(5, 3)
    with recorder.record() as calls:
        out = model(x)
    (call,) = calls
    read = recorder.read(call)
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
    model: Net, recorder: CallRecorder, arguments: tuple, named: dict, expected: type
) -> None:
    with recorder.record() as calls:
        out = model(*arguments, **named)
    assert isinstance(calls[0].inputs, expected)
    assert torch.equal(Capture(model).run(calls[0].inputs).logits, out)


def test_nothing_is_read_outside(model: Net, recorder: CallRecorder) -> None:
    model(torch.ones(2, 3))
    with recorder.record() as calls:
        pass
    model(torch.ones(2, 3))
    assert calls == []
    assert not recorder.capture.store.calls


def test_calls_are_told_apart(model: Net, recorder: CallRecorder) -> None:
    first, second = torch.randn(2, 3), torch.randn(4, 3)
    with recorder.record() as calls:
        model(first)
        with torch.no_grad():
            model(second)
    assert [call.with_grad for call in calls] == [True, False]
    sizes = [recorder.read(call, dry=True).features["first"].shape[0] for call in calls]
    assert sizes == [2, 4]


def test_a_mask_is_found_by_its_name(model: Net, recorder: CallRecorder) -> None:
    mask = torch.tensor([[1, 0]])
    with recorder.record() as calls:
        model(torch.ones(1, 3), attention_mask=mask)
        model(torch.ones(1, 3))
    assert calls[0].mask is not None
    assert calls[0].mask.tolist() == [[True, False]]
    assert calls[1].mask is None


def test_an_error_of_the_model_leaves_nothing_on(model: Net, recorder: CallRecorder) -> None:
    with pytest.raises(RuntimeError), recorder.record():
        model(torch.ones(2, 99))
    assert not recorder.capture.store.recording
    assert Capture(model, ["first"]).run(torch.ones(2, 3)).features["first"].shape == (2, 4)


def test_inputs_changed_in_place(model: Net, recorder: CallRecorder) -> None:
    x = torch.ones(2, 3)
    with recorder.record() as calls:
        model(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        recorder.read(calls[0])


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_listens_to_its_own_model(model: Net, recorder: CallRecorder, how: str) -> None:
    pair = (model, recorder)
    twin, copied = copy.deepcopy(pair) if how == "copied" else pickle.loads(pickle.dumps(pair))
    with copied.record() as theirs, recorder.record() as ours:
        twin(torch.ones(2, 3))
    assert len(theirs) == 1
    assert ours == []


def test_removed(model: Net, recorder: CallRecorder) -> None:
    recorder.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_forward_called_directly_is_recorded_once(model: Net, recorder: CallRecorder) -> None:
    x = torch.randn(5, 3)
    before = dict(vars(model))
    with recorder.record() as calls:
        out = model.forward(x, scale=2.0)
        model(x)
    assert len(calls) == 2
    read = recorder.read(calls[0])
    assert read.logits is out
    assert read.features["first"].shape == (5, 4)
    assert dict(vars(model)) == before


def test_an_error_in_forward_leaves_nothing_on(model: Net, recorder: CallRecorder) -> None:
    before = dict(vars(model))
    with pytest.raises(RuntimeError), recorder.record():
        model.forward(torch.ones(2, 99))
    assert dict(vars(model)) == before
    assert not recorder.capture.store.recording


def test_a_forward_that_was_set_on_the_instance_is_put_back(model: Net, recorder: CallRecorder) -> None:
    own = model.forward
    vars(model)["forward"] = own
    with recorder.record() as calls:
        model(torch.ones(2, 3))
    assert len(calls) == 1
    assert vars(model)["forward"] is own


class TestParts:
    def recorded(
        self, recorder: CallRecorder, step: Callable[[], object], names: list[str] | None = None
    ) -> list[Call]:
        recorder.record_parts(names)
        with recorder.record() as calls:
            step()
        return calls

    def test_one_after_another_they_are_one_call(self, model: Net, recorder: CallRecorder) -> None:
        x = torch.randn(5, 3)
        (call,) = self.recorded(recorder, lambda: model.second(torch.tanh(model.first(x))))
        read = recorder.read(call)
        assert call.parts == ("first", "second")
        assert call.inputs is x
        assert torch.equal(read.logits, model(x))
        assert read.features["first"].requires_grad

    def test_without_gradients_a_view_is_known(self, model: Net, recorder: CallRecorder) -> None:
        with torch.no_grad():
            (call,) = self.recorded(recorder, lambda: model.second(model.first(torch.ones(2, 3)).view(2, 4)))
        assert call.parts == ("first", "second")

    def test_a_call_of_the_whole_comes_before_them(self, model: Net, recorder: CallRecorder) -> None:
        calls = self.recorded(recorder, lambda: (model.first(torch.ones(2, 3)), model(torch.ones(2, 3))))
        assert [call.parts for call in calls] == [()]
        assert recorder.refusal is None

    def test_others_than_those_named_are_not_recorded(self, model: Net, recorder: CallRecorder) -> None:
        (call,) = self.recorded(recorder, lambda: model.second(model.first(torch.ones(2, 3))), ["second"])
        assert call.parts == ("second",)

    def test_losses_and_metrics_are_no_parts(self, recorder: CallRecorder, model: Net) -> None:
        model.criterion = nn.CrossEntropyLoss()
        y = torch.tensor([0, 1])
        (call,) = self.recorded(recorder, lambda: model.criterion(model.second(model.first(torch.ones(2, 3))), y))
        assert call.parts == ("first", "second")

    def test_a_part_that_fails_leaves_the_rest_recorded(self, model: Net, recorder: CallRecorder) -> None:
        def step() -> None:
            with pytest.raises(RuntimeError):
                model.first(torch.ones(2, 99))
            model(torch.ones(2, 3))

        assert len(self.recorded(recorder, step)) == 1

    def test_removed(self, model: Net, recorder: CallRecorder) -> None:
        recorder.record_parts()
        recorder.remove()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
