"""What is read of a batch without being told, what is refused, and what can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lit_distill.batch.batch import Arguments, Batch, BatchFormat, call_model, count_samples, move, tensors_of
from lit_distill.batch.label_marks import ignore, shifted
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.reporting import describe, join

X, Y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
LENGTHS, IDS = torch.tensor([6, 3, 2, 5]), torch.arange(4)
TOKENS, MASK = torch.randint(1, 9, (4, 6)), torch.arange(6) < LENGTHS[:, None]


class Images(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return ("x",), x


class Sequences(nn.Module):
    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Any:
        return inputs, lengths


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Any:
        return left, right


class Text(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **other: Any) -> Any:
        return input_ids, attention_mask, other


class Segments(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Any = None) -> Any:
        return input_ids, attention_mask, token_type_ids


class Anything(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


class Decoder(nn.Module):
    def forward(
        self, input_ids: Tensor, attention_mask: Any = None, decoder_input_ids: Any = None, labels: Any = None
    ) -> Any:
        return input_ids, attention_mask, decoder_input_ids, labels


class Detector(nn.Module):
    def forward(self, images: list[Tensor]) -> Any:
        return images


class OfGraphs(nn.Module):
    def forward(self, data: Any) -> Any:
        return data


class OfEdges(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        return x, edge_index


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


class Plain(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Record:
    image: Tensor
    label: Tensor
    name: str = "a"


class Graph:
    """As PyTorch Geometric's: names its entries, and is indexed by them."""

    def __init__(self, **entries: Tensor) -> None:
        self.__dict__.update(entries)
        self.num_graphs = 2

    def keys(self) -> list[str]:
        return [name for name in vars(self) if name != "num_graphs"]

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]

    def to(self, device: torch.device) -> Graph:
        return self


def called(model: nn.Module, batch: Any, **told: Any) -> tuple[Batch, Any]:
    """The batch, read for a student, and what its forward got."""
    data = BatchReader(BatchFormat(**told), model).read(batch)
    return data, call_model(model, data.inputs)


class TestByName:
    def test_entries_named_as_arguments_reach_them_and_optional_ones_too(self) -> None:
        data, got = called(Sequences(), {"inputs": X, "lengths": LENGTHS, "label": Y})
        assert got[0] is X
        assert got[1] is LENGTHS
        assert data.target is Y

    def test_an_input_of_another_usual_name_goes_first_and_named_ones_beside_it(self) -> None:
        _, got = called(Sequences(), {"image": X, "lengths": LENGTHS, "label": Y})
        assert got[0] is X
        assert got[1] is LENGTHS

    def test_the_only_entry_that_can_be_the_input_is(self) -> None:
        data, got = called(Images(), {"spectrogram": X, "grade": Y, "id": IDS}, target_key="grade")
        assert got[1] is X
        assert data.target is Y

    def test_two_entries_that_can_be_the_input_are_asked_about(self) -> None:
        with pytest.raises(
            ValueError, match=r"needs 'x', and 'left' or 'right' may be it.*BatchFormat\(input_key='left'\)"
        ):
            called(Images(), {"left": X, "right": X, "label": Y})

    def test_arguments_that_no_entry_is_called_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"Two.forward\(left, right\).*needs 'left', 'right'"):
            called(Two(), {"image": X, "label": Y})

    def test_two_usual_names_of_labels_are_asked_about(self) -> None:
        with pytest.raises(ValueError, match=r"'label' and 'labels'.*target_key='label'"):
            called(Images(), {"x": X, "label": Y, "labels": Y})
        assert called(Images(), {"x": X, "label": Y, "labels": X}, target_key="label")[0].target is Y

    def test_columns_that_forward_does_not_name_are_left_out_even_where_it_takes_any(self) -> None:
        _, got = called(Text(), {"input_ids": TOKENS, "attention_mask": MASK, "idx": IDS, "labels": Y})
        assert got[2] == {}

    def test_student_and_teacher_get_what_each_takes(self) -> None:
        batch = {"input_ids": TOKENS, "attention_mask": MASK, "token_type_ids": TOKENS, "labels": Y}
        data = BatchReader(BatchFormat(), Text(), Segments()).read(batch)
        assert "token_type_ids" not in dict(data.inputs)  # type: ignore[call-overload]
        assert dict(data.for_teacher)["token_type_ids"] is TOKENS  # type: ignore[call-overload]

    def test_a_teacher_that_takes_the_same_has_no_inputs_of_its_own(self) -> None:
        batch = {"input_ids": TOKENS, "attention_mask": MASK, "labels": Y}
        assert BatchReader(BatchFormat(), Segments(), Segments()).read(batch).teacher_inputs is None

    def test_networks_that_take_anything_get_every_entry_but_the_labels(self) -> None:
        _, got = called(Anything(), {"input_ids": TOKENS, "attention_mask": MASK, "labels": Y})
        assert list(got[1]) == ["input_ids", "attention_mask"]

    def test_labels_make_the_decoders_inputs_where_the_batch_has_none(self) -> None:
        _, got = called(Decoder(), {"input_ids": TOKENS, "labels": TOKENS})
        assert torch.equal(got[3], TOKENS)
        _, got = called(Decoder(), {"input_ids": TOKENS, "labels": TOKENS, "decoder_input_ids": TOKENS})
        assert got[3] is None

    def test_a_list_of_inputs_is_passed_by_name_where_there_are_such_arguments_and_else_in_order(self) -> None:
        _, got = called(Two(), {"a": X, "b": Y, "z": IDS}, input_key=["b", "a"])
        assert got[0] is Y
        assert got[1] is X
        _, got = called(Two(), {"right": X, "left": Y, "z": IDS}, input_key=["right", "left"])
        assert got[0] is Y

    def test_a_function_reads_what_has_no_name(self) -> None:
        batch = {"view": {"deep": X}, "meta": {"label": Y}}
        data, got = called(
            Images(), batch, input_key=lambda b: b["view"]["deep"], target_key=lambda b: b["meta"]["label"]
        )
        assert got[1] is X
        assert data.target is Y


class TestInOrder:
    def test_three_entries_are_read_by_index(self) -> None:
        data, got = called(Images(), (X, Y, IDS), input_key=0, target_key=1)
        assert got[1] is X
        assert data.target is Y
        data, _ = called(Images(), (IDS, X, Y), input_key=1, target_key=2)
        assert data.target is Y

    def test_three_entries_untold_are_refused_with_their_shapes_and_the_remedy(self) -> None:
        with pytest.raises(
            ValueError, match=r"3 entries \(0: a tensor \[4, 6\].*BatchFormat\(input_key=0, target_key=1\)"
        ):
            called(Images(), (X, Y, IDS))

    def test_a_weight_told_by_its_index_leaves_a_pair(self) -> None:
        weight = torch.rand(4)
        data, got = called(Images(), (X, Y, weight), weight_key=2)
        assert got[1] is X
        assert data.target is Y
        assert data.sample_weight is weight

    def test_entries_that_are_meant_to_be_unused_leave_a_pair(self) -> None:
        data, got = called(Images(), [X, Y, IDS], unused=[2])
        assert got[1] is X
        assert data.target is Y

    def test_as_many_inputs_as_forward_needs_before_the_labels(self) -> None:
        data, got = called(Two(), (X, LENGTHS, Y))
        assert got == (X, LENGTHS)
        assert data.target is Y

    def test_a_nested_pair_is_spread_over_the_arguments(self) -> None:
        data, got = called(OfEdges(), ((X, TOKENS), Y))
        assert got == (X, TOKENS)
        assert data.target is Y

    def test_a_list_is_one_argument_where_forward_takes_one(self) -> None:
        images = [torch.rand(3, 4, 4), torch.rand(3, 5, 4)]
        _, got = called(Detector(), (images, Y))
        assert got is images

    def test_texts_are_one_argument(self) -> None:
        texts = ["a b", "c"]
        for model in (OfGraphs(), Anything()):
            data, _ = called(model, (texts, Y[:2]))
            assert isinstance(data.inputs, Arguments)
            assert data.inputs.positional[0] is texts
        data, got = called(OfGraphs(), texts)
        assert got is texts
        assert data.target is None

    def test_a_mapping_inside_a_pair_is_passed_by_name_and_its_mask_is_found(self) -> None:
        inside = {"input_ids": TOKENS, "attention_mask": MASK.long(), "extra": IDS}
        data, got = called(Text(), (inside, Y))
        assert got[0] is TOKENS
        assert got[2] == {}
        assert data.mask is not None
        assert torch.equal(data.mask, MASK)

    @pytest.mark.parametrize("second", [torch.randn(4, 6), torch.randn(4, 3, 8, 8)])
    def test_a_second_view_is_no_label_where_nobody_reads_labels(self, second: Tensor) -> None:
        with pytest.raises(ValueError, match=r"no criterion reads labels.*target_key=1\), or teacher_input_key=1"):
            BatchReader(BatchFormat(), Images(), labels_are_read=False).read((X, second))
        data = BatchReader(BatchFormat(teacher_input_key=1), Images(), Images(), labels_are_read=False).read(
            (X, second)
        )
        assert data.for_teacher is second
        assert data.target is None

    def test_class_indices_nobody_reads_are_labels_all_the_same(self) -> None:
        assert BatchReader(BatchFormat(), Images(), labels_are_read=False).read((X, Y)).target is Y

    def test_a_list_of_samples_is_one_argument_however_many_there_are(self) -> None:
        class Options(nn.Module):
            def forward(self, images: Any, extra: Any = None) -> Any:
                return images, extra

        for count in (2, 3):
            images = [torch.rand(3, 4 + i, 4) for i in range(count)]
            for batch in ((images, Y[:count]), (tuple(images), Y[:count])):
                _, got = called(Options(), batch)
                assert len(got[0]) == count
                assert got[1] is None
        _, got = called(Options(), ([X, LENGTHS], Y))
        assert got == (X, LENGTHS)

    def test_labels_in_a_list_become_a_tensor(self) -> None:
        assert called(Images(), (X, [0, 1, 2, 0]))[0].target.tolist() == [0, 1, 2, 0]  # type: ignore[union-attr]
        assert called(Images(), (X, [Y]))[0].target is Y

    def test_a_dict_inside_a_pair_is_one_argument_where_forward_names_none_of_it(self) -> None:
        inside = {"encoder": X, "decoder": X}
        for told in ({}, {"input_key": 0}):
            _, got = called(Images(), (inside, Y), **told)
            assert got[1] is inside


class TestObjects:
    def test_named_tuples_are_read_by_usual_names_and_else_in_order(self) -> None:
        for batch in (Pair(X, Y), Plain(X, Y)):
            data, got = called(Images(), batch)
            assert got[1] is X
            assert data.target is Y

    def test_a_packed_sequence_is_one_argument(self) -> None:
        packed = pack_sequence([torch.randn(3, 2), torch.randn(2, 2)])
        for batch in (packed, (packed, Y[:2])):
            data, got = called(OfGraphs(), batch)
            assert isinstance(got, PackedSequence)
            assert data.size == 2

    def test_a_dataclass_is_read_by_its_fields_where_forward_takes_one_of_them(self) -> None:
        class OfImage(nn.Module):
            def forward(self, image: Tensor) -> Any:
                return image

        data, got = called(OfImage(), Record(X, Y))
        assert got is X
        assert data.target is Y

    def test_an_object_is_passed_whole_where_forward_takes_one(self) -> None:
        for record in (Record(X, Y), Graph(x=X, edge_index=TOKENS, y=Y)):
            data, got = called(OfGraphs(), record)
            assert got is record
            assert data.target is Y

    def test_a_graph_is_spread_where_forward_names_its_entries(self) -> None:
        data, got = called(OfEdges(), Graph(x=X, edge_index=TOKENS, y=Y))
        assert got == (X, TOKENS)
        assert data.target is Y

    def test_samples_are_counted(self) -> None:
        assert count_samples(Graph(x=X, edge_index=TOKENS)) == 2
        assert count_samples({"id": "a", "x": X}) == 4
        assert count_samples(["text", "more"]) == 2
        assert [len(tensor) for tensor in tensors_of(Record(X, Y))] == [4, 4]

    def test_objects_that_refer_to_each_other_are_no_endless_search(self) -> None:
        first, second = Record(X, Y), Record(X, Y)
        first.name, second.name = [second], [first]  # type: ignore[assignment]
        assert tensors_of(first)[0] is X

    def test_objects_move_by_their_own_method(self) -> None:
        graph = Graph(x=X)
        assert move((graph, X), torch.device("cpu"))[0] is graph

    @pytest.mark.parametrize("batch", [None, "text", 3])
    def test_what_is_no_batch_is_refused(self, batch: Any) -> None:
        with pytest.raises(ValueError, match="the DataLoader yielded"):
            called(Images(), batch)

    def test_a_network_that_takes_a_batch_gets_the_whole_dict(self) -> None:
        class OfBatch(nn.Module):
            def forward(self, batch: dict[str, Tensor]) -> Any:
                return batch

        _, got = called(OfBatch(), {"image": X, "label": Y})
        assert got == {"image": X, "label": Y}

    def test_a_dataclass_is_read_as_a_dict_is_where_forward_takes_an_input(self) -> None:
        _, got = called(Images(), Record(X, Y))
        assert got[1] is X

    def test_a_named_tuple_of_unusual_names_is_told_by_them(self) -> None:
        class Odd(NamedTuple):
            img: Tensor
            cls: Tensor
            idx: Tensor

        data, got = called(Images(), Odd(X, Y, IDS), input_key="img", target_key="cls")
        assert got[1] is X
        assert data.target is Y


class TestMask:
    def test_attention_masks_count_tokens(self) -> None:
        data, _ = called(Text(), {"input_ids": TOKENS, "attention_mask": MASK.long(), "labels": Y})
        assert data.mask is not None
        assert torch.equal(data.mask, MASK)
        assert not data.mask_is_told

    def test_the_labels_entry_is_never_the_mask(self) -> None:
        data, _ = called(Images(), {"image": X, "mask": TOKENS}, target_key="mask")
        assert data.mask is None
        assert data.target is TOKENS

    def test_a_mask_of_whole_numbers_that_may_be_labels_is_asked_about(self) -> None:
        with pytest.raises(ValueError, match=r"target_key='mask'\), or mask_key='mask'"):
            called(Images(), {"image": X, "mask": TOKENS})
        assert called(Images(), {"image": X, "mask": TOKENS > 3})[0].mask is not None
        assert called(Images(), {"image": X, "mask": TOKENS, "label": Y})[0].mask is not None

    def test_an_encoders_mask_is_none_of_the_decoders(self) -> None:
        batch = {"input_ids": TOKENS, "attention_mask": MASK, "decoder_input_ids": TOKENS, "labels": TOKENS}
        assert called(Decoder(), batch)[0].mask is None
        data, _ = called(Decoder(), {**batch, "decoder_attention_mask": MASK})
        assert data.mask is not None

    def test_an_argument_of_the_networks_called_mask_is_not_taken_for_the_logits(self) -> None:
        class Masked(nn.Module):
            def forward(self, x: Tensor, mask: Tensor) -> Any:
                return x, mask

        data, got = called(Masked(), {"x": X, "mask": MASK, "label": Y})
        assert got[1] is MASK
        assert data.mask is None

    def test_it_can_be_told_and_told_away(self) -> None:
        batch = {"input_ids": TOKENS, "attention_mask": MASK, "answer": ~MASK, "labels": TOKENS}
        data, _ = called(Text(), batch, mask_key="answer")
        assert data.mask is not None
        assert torch.equal(data.mask, ~MASK)
        assert data.mask_is_told
        assert called(Text(), batch, mask_key=None)[0].mask is None
        data, _ = called(Text(), batch, mask_key=lambda b: b["labels"] > 4)
        assert torch.equal(data.mask, TOKENS > 4)  # type: ignore[arg-type]

    def test_numbers_that_are_added_to_scores_are_no_mask(self) -> None:
        added = torch.zeros(4, 6).masked_fill(~MASK, float("-inf"))
        with pytest.raises(ValueError, match="holds other numbers"):
            called(Text(), {"input_ids": TOKENS, "attention_mask": added, "labels": Y})
        assert called(Text(), {"input_ids": TOKENS, "attention_mask": MASK.float(), "labels": Y})[0].mask is not None

    def test_lengths_as_shares_are_refused(self) -> None:
        with pytest.raises(ValueError, match="lengths are whole numbers"):
            called(Sequences(), {"inputs": X, "lengths": LENGTHS / 6, "label": Y}, lengths_key="lengths")


class TestLabels:
    def test_numbers_that_are_missing_are_marked_where_labels_are_numbers(self) -> None:
        depth = torch.tensor([0.0, 2.5, float("nan")])
        assert ignore(depth[:2], 0, numbers=True).tolist() == [-100.0, 2.5]
        assert ignore(depth[:2], 0).tolist() == [0.0, 2.5]
        assert ignore(depth, float("nan")).tolist() == [0.0, 2.5, -100.0]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
    def test_unknown_labels_are_marked_in_every_integer_type(self, dtype: torch.dtype) -> None:
        labels = torch.tensor([3, 255 if dtype == torch.uint8 else 200, 0]).to(dtype)
        found = ignore(labels, 255 if dtype == torch.uint8 else 200)
        assert found.tolist() == [3, -100, 0]

    def test_unknown_labels_of_several_findings_are_marked_in_floats(self) -> None:
        assert ignore(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), -1).tolist() == [[1.0, -100.0], [0.0, 1.0]]

    def test_shifted_labels_are_the_next_positions(self) -> None:
        assert shifted(torch.tensor([[1, 2, 3]])).tolist() == [[2, 3, -100]]
        data, _ = called(Text(), {"input_ids": TOKENS, "labels": TOKENS}, shift_labels=True)
        assert torch.equal(data.target[:, :-1], TOKENS[:, 1:])  # type: ignore[index]


class TestReport:
    def say(self, batch: Any, model: nn.Module, several: bool = False, **told: Any) -> list[str]:
        return describe(batch, BatchReader(BatchFormat(**told), model), several)

    def test_who_gets_what_is_said_in_one_line(self) -> None:
        batch = {"inputs": X, "lengths": LENGTHS, "label": Y, "id": IDS}
        (line,) = self.say(batch, Sequences())
        assert line == "Batch: student: inputs, lengths; labels: label; mask: none; not used: id."

    def test_a_tensor_that_reaches_nobody_is_warned_of_unless_that_is_meant(self) -> None:
        batch = {"x": X, "boxes": TOKENS, "label": Y}
        with pytest.warns(UserWarning, match=r"'boxes' of the batch reaches neither.*unused=\['boxes'\]"):
            self.say(batch, Images())
        assert "not used" in self.say(batch, Images(), unused=["boxes"])[0]

    def test_labels_that_are_the_inputs_are_refused_until_it_is_told_whether_to_shift_them(self) -> None:
        batch = {"input_ids": TOKENS, "labels": TOKENS.masked_fill(~MASK, -100)}
        with pytest.raises(ValueError, match=r"shift_labels=True"):
            self.say(batch, Text())
        for told in (True, False):
            assert self.say(batch, Text(), shift_labels=told)
        assert self.say({"input_ids": TOKENS, "labels": TOKENS + 1}, Text())


class TestSeveralLoaders:
    def joined(self, batch: Any, model: nn.Module | None = None) -> Batch:
        return join(batch, BatchReader(BatchFormat(), model or Images()))

    def test_samples_without_labels_follow_those_with_and_train_no_label(self) -> None:
        more = torch.randn(3, 6)
        data = self.joined({"labelled": (X, Y), "unlabelled": more})
        assert torch.equal(data.inputs, torch.cat([X, more]))  # type: ignore[arg-type]
        assert data.target.tolist() == [*Y.tolist(), -100, -100, -100]  # type: ignore[union-attr]

    def test_a_loader_that_has_ended_is_left_out(self) -> None:
        assert self.joined([(X, Y), None]).inputs is X

    def test_named_inputs_are_joined_by_name(self) -> None:
        part = {"input_ids": TOKENS, "attention_mask": MASK.long(), "labels": Y}
        data = self.joined([part, part], Text())
        assert dict(data.inputs)["input_ids"].shape == (8, 6)  # type: ignore[call-overload]
        assert data.mask is not None
        assert len(data.mask) == 8

    def test_inputs_by_position_and_by_name_keep_both(self) -> None:
        part = {"image": X, "lengths": LENGTHS, "label": Y}
        data = self.joined([part, part], Sequences())
        got = call_model(Sequences(), data.inputs)
        assert got[0].shape == (8, 6)
        assert got[1].tolist() == LENGTHS.tolist() * 2

    def test_a_part_may_lack_what_was_told_of_the_labelled_ones(self) -> None:
        told = BatchFormat(target_key="grade", weight_key="w", missing_label=-1)
        weight = torch.rand(4)
        reader = BatchReader(told, Images())
        data = join({"a": {"x": X, "grade": Y, "w": weight}, "b": {"x": X}}, reader)
        assert data.target.tolist() == [*Y.tolist(), *[-100] * 4]  # type: ignore[union-attr]
        assert torch.equal(data.sample_weight, torch.cat([weight, torch.ones(4)]))  # type: ignore[arg-type]
        data = join([(X, Y), X], BatchReader(BatchFormat(input_key=0, target_key=1), Images()))
        assert len(data.target) == 8  # type: ignore[arg-type]

    def test_findings_of_unlabelled_samples_are_not_known(self) -> None:
        findings = torch.tensor([[1.0, 0.0, 1.0]] * 4)
        data = self.joined([(X, findings), X])
        assert data.target[4:].unique().tolist() == [-100.0]  # type: ignore[index]

    def test_labels_stay_unknown_where_the_labelled_loader_has_ended(self) -> None:
        reader = BatchReader(BatchFormat(), Images())
        join([(X, Y), X], reader)
        assert join([None, X], reader).target.tolist() == [-100] * 4  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ([(X, Y), torch.randn(2, 5)], r"inputs of shapes \[\[4, 6\], \[2, 5\]\]"),
            ([(X, Y), ((X, X), Y)], "of different forms"),
            ([(X, X.softmax(1)), X], "class probabilities and some no labels"),
        ],
    )
    def test_what_cannot_be_joined_is_refused(self, batch: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.joined(batch)


def test_a_missing_entry_is_named() -> None:
    with pytest.raises(ValueError, match=r"no entry 'grade' in the batch; it has \['label', 'x'\]"):
        called(Images(), {"x": X, "label": Y}, target_key="grade")
    with pytest.raises(ValueError, match=r"no index 5 in the batch; it has \['0', '1'\]"):
        called(Images(), (X, Y), target_key=5)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda m: torch.compile(m), marks=pytest.mark.slow, id="compiled"),
        pytest.param(lambda m: nn.DataParallel(m), id="parallel"),
    ],
)
def test_wrapped_networks_are_asked_for_their_own_arguments(wrap: Callable[[nn.Module], nn.Module]) -> None:
    data = BatchReader(BatchFormat(), wrap(Sequences())).read({"image": X, "lengths": LENGTHS, "label": Y})
    assert isinstance(data.inputs, Arguments)
    assert data.inputs.named["lengths"] is LENGTHS


def test_scripted_networks_are_asked_for_theirs() -> None:
    class Scripted(nn.Module):
        def forward(self, scan: Tensor, scale: float = 1.0) -> Tensor:
            return scan * scale

    reader = BatchReader(BatchFormat(), torch.jit.script(Scripted()))
    assert reader.read({"scan": X, "age": Y, "label": Y}).inputs is X
