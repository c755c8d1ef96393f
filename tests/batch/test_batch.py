from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from lit_distill.batch.batch import Arguments, Batch, BatchFormat, call_model, move, tensors_of
from lit_distill.batch.entries import INPUT_KEYS, TARGET_KEYS
from lit_distill.batch.reading import BatchReader


def unpack(batch: Any, input_key: str | None = None, target_key: str | None = None) -> Batch:
    return read(BatchFormat(input_key=input_key, target_key=target_key), batch)


def read(format_: BatchFormat, batch: Any) -> Batch:
    return BatchReader(format_).read(batch)


X, Y = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Recorder(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs


@pytest.mark.parametrize("batch", [X, (X,), [X], {"x": X}, {"pixel_values": X}])
def test_inputs_alone(batch: Any) -> None:
    found = unpack(batch)
    assert found.inputs is X
    assert found.target is None
    assert found.mask is None


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], Pair(X, Y)])
def test_pairs(batch: Any) -> None:
    found = unpack(batch)
    assert found.inputs is X
    assert found.target is Y


@pytest.mark.parametrize("input_key", INPUT_KEYS)
@pytest.mark.parametrize("target_key", TARGET_KEYS)
def test_usual_names_are_found_in_a_dict(input_key: str, target_key: str) -> None:
    found = unpack({"index": torch.zeros(2), target_key: Y, input_key: X})
    assert found.inputs is X
    assert found.target is Y


def test_named_keys_win_over_usual_names() -> None:
    other = torch.zeros(2)
    found = unpack({"image": other, "scan": X, "label": other, "grade": Y}, "scan", "grade")
    assert found.inputs is X
    assert found.target is Y


def test_without_a_known_input_everything_but_the_target_goes_to_the_model() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    for batch in (
        {"input_ids": ids, "attention_mask": MASK, "labels": Y},
        BatchEncoding({"input_ids": ids, "attention_mask": MASK, "labels": Y}),
    ):
        found = unpack(batch)
        assert isinstance(found.inputs, dict)
        assert list(found.inputs) == ["input_ids", "attention_mask"]
        assert found.target is Y
        assert found.mask is not None
        assert torch.equal(found.mask, MASK.bool())


def test_mask_beside_a_known_input_is_read_as_bool() -> None:
    found = unpack({"x": X, "y": Y, "mask": MASK})
    assert found.mask is not None
    assert found.mask.dtype == torch.bool


@pytest.mark.parametrize("key", ["input_key", "target_key"])
def test_a_missing_named_key_lists_what_is_there(key: str) -> None:
    with pytest.raises(ValueError, match=r"no entry 'scan' in the batch; it has \['x', 'y'\]"):
        unpack({"y": Y, "x": X}, **{key: "scan"})


@pytest.mark.parametrize(
    ("batch", "message"),
    [((X, Y, Y), "yielded 3 entries"), ((), "yielded 0 entries"), ("text", "yielded str"), (None, "yielded NoneType")],
)
def test_other_batches_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message}.*; \(inputs, target\), a dict, or only inputs"):
        unpack(batch)


@pytest.mark.parametrize("inputs", [X, {"name": "a", "ids": X}, (X, Y), [3, X]])
def test_size_is_that_of_the_first_tensor(inputs: Any) -> None:
    assert Batch(inputs).size == 2


def test_tensors_of_keeps_order_and_drops_the_rest() -> None:
    assert tensors_of(X) == [X]
    assert [id(t) for t in tensors_of({"b": Y, "n": 3, "a": X})] == [id(Y), id(X)]
    assert [id(t) for t in tensors_of((X, None, Y))] == [id(X), id(Y)]


def test_the_model_is_called_as_its_inputs_ask() -> None:
    model = Recorder()
    assert call_model(model, X) == ((X,), {})
    assert call_model(model, {"ids": X, "flag": True}) == ((), {"ids": X, "flag": True})
    assert call_model(model, (X, Y)) == ((X, Y), {})


def test_move_reaches_nested_tensors_and_changes_only_floating_types() -> None:
    data = {"a": X, "b": [Y, (X, "text")], "c": Pair(X, Y), "d": None}
    found = move(data, torch.device("meta"), torch.float16)
    assert found["a"].device.type == "meta"
    assert found["a"].dtype == torch.float16
    assert found["b"][0].dtype == torch.int64
    assert found["b"][1][0].dtype == torch.float16
    assert found["b"][1][1] == "text"
    assert isinstance(found["c"], Pair)
    assert found["c"].y.device.type == "meta"
    assert found["d"] is None


def test_move_without_a_type_keeps_types_and_values() -> None:
    found = move((X, Y), torch.device("cpu"))
    assert isinstance(found, tuple)
    assert torch.equal(found[0], X)
    assert found[0].dtype == X.dtype


class TestFormat:
    def test_the_teacher_has_inputs_of_its_own(self) -> None:
        small, large = torch.rand(2, 3), torch.rand(2, 5)
        batch = {"image": small, "large": large, "label": torch.tensor([0, 1])}
        data = read(BatchFormat(teacher_input_key="large"), batch)
        assert data.inputs is small
        assert data.for_teacher is large
        assert read(BatchFormat(), batch).for_teacher is small

    def test_what_the_teacher_alone_gets_is_not_passed_to_the_student(self) -> None:
        batch = {"input_ids": torch.ones(2, 3), "waveform": torch.rand(2, 8), "labels": torch.tensor([0, 1])}
        data = read(BatchFormat(teacher_input_key="waveform"), batch)
        assert isinstance(data.inputs, dict)
        assert list(data.inputs) == ["input_ids"]

    def test_an_input_that_is_missing_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"no entry 'big' in the batch; it has \['image'\]"):
            read(BatchFormat(teacher_input_key="big"), {"image": torch.rand(2, 3)})
        with pytest.raises(ValueError, match="only a dict batch has names"):
            read(BatchFormat(teacher_input_key="big"), (torch.rand(2, 3), torch.tensor([0, 1])))

    def test_missing_labels_become_ignored_ones(self) -> None:
        labels = torch.tensor([2, -1, 0])
        format_ = BatchFormat(missing_label=-1)
        target = read(format_, (torch.rand(3, 2), labels)).target
        assert isinstance(target, torch.Tensor)
        assert target.tolist() == [2, -100, 0]
        assert labels.tolist() == [2, -1, 0]
        tasks = read(format_, (torch.rand(3, 2), {"a": labels, "b": torch.tensor([-1, -1, 5])})).target
        assert isinstance(tasks, dict)
        assert {task: values.tolist() for task, values in tasks.items()} == {"a": [2, -100, 0], "b": [-100, -100, 5]}

    @pytest.mark.parametrize("missing", [-1, 0, 1])
    def test_class_probabilities_are_left_alone(self, missing: int) -> None:
        mixed = torch.tensor([[0.0, 1.0], [0.3, 0.7]])
        found = read(BatchFormat(missing_label=missing), (torch.rand(2, 2), mixed)).target
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, mixed)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32])
    def test_a_missing_label_is_marked_in_every_type(self, dtype: torch.dtype) -> None:
        labels = torch.tensor([[2, 255], [7, 0]]).to(dtype)
        found = read(BatchFormat(missing_label=255), (torch.rand(2, 2), labels)).target
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == [[2, -100], [7, 0]]

    def test_unknown_findings_that_are_floats_are_marked(self) -> None:
        found = read(BatchFormat(missing_label=-1), (torch.rand(1, 3), torch.tensor([[-1.0, 0.0, 1.0]]))).target
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == [[-100.0, 0.0, 1.0]]


class TestArguments:
    def test_positions_and_names_are_passed_on(self) -> None:
        class Model(torch.nn.Module):
            def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
                return x * scale

        x = torch.ones(2, 3)
        assert torch.equal(call_model(Model(), Arguments((x,), {"scale": 3.0})), 3 * x)

    def test_tensors_are_found_and_moved(self) -> None:
        inputs = Arguments((torch.ones(2), 1), {"more": [torch.zeros(3)], "flag": True})
        assert [len(tensor) for tensor in tensors_of(inputs)] == [2, 3]
        moved = move(inputs, torch.device("cpu"), torch.float64)
        assert moved.positional[0].dtype == moved.named["more"][0].dtype == torch.float64
        assert moved.named["flag"] is True
