"""Every usual form of labels is read as what it means, or refused with the forms that fit."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import Task, class_dim, class_indices, need_classes, read_labels, sample_classes
from lit_distill.batch.reading import BatchReader

INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
LAYOUTS = {"rows": (4,), "tokens": (4, 5), "maps": (4, 2, 3), "volumes": (2, 2, 3, 2)}
CLASSES = 3


def indices(layout: str) -> Tensor:
    shape = LAYOUTS[layout]
    return (torch.arange(torch.Size(shape).numel()) % CLASSES).reshape(shape)


def logits_for(layout: str, classes: int = CLASSES) -> Tensor:
    shape = LAYOUTS[layout]
    last = torch.randn(*shape, classes, generator=torch.Generator().manual_seed(0))
    return last.movedim(-1, 1) if len(shape) > 2 else last


every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
@pytest.mark.parametrize("dtype", INTEGERS)
def test_class_indices_of_every_integer_type_are_read(layout: str, dtype: torch.dtype) -> None:
    found = read_labels(indices(layout).to(dtype), logits_for(layout), "multiclass")
    assert found.dtype == torch.int64
    assert torch.equal(found, indices(layout))


def test_bools_are_the_classes_0_and_1() -> None:
    found = read_labels(torch.tensor([True, False]), torch.zeros(2, 2), "multiclass")
    assert found.tolist() == [1, 0]


@every_layout
def test_a_dimension_of_1_in_the_place_of_the_classes_is_dropped(layout: str) -> None:
    logits = logits_for(layout)
    column = indices(layout).unsqueeze(class_dim(logits))
    assert torch.equal(read_labels(column, logits, "multiclass"), indices(layout))


@every_layout
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool])
def test_one_hot_integers_are_read_as_their_class(layout: str, dtype: torch.dtype) -> None:
    logits = logits_for(layout)
    one_hot = F.one_hot(indices(layout), CLASSES).movedim(-1, class_dim(logits)).to(dtype)
    assert torch.equal(read_labels(one_hot, logits, "multiclass"), indices(layout))


@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_class_probabilities_stay_as_they_are_and_have_a_likeliest_class(layout: str, dtype: torch.dtype) -> None:
    logits = logits_for(layout)
    shares = (3 * logits).softmax(class_dim(logits)).to(dtype)
    found = read_labels(shares, logits, "multiclass")
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found, shares.to(found.dtype))
    assert torch.equal(class_indices(shares, logits), logits.argmax(class_dim(logits)))


@every_layout
def test_an_ignored_label_stays_ignored_in_every_form(layout: str) -> None:
    logits = logits_for(layout)
    place = class_dim(logits)
    target = indices(layout)
    hidden = torch.zeros_like(target, dtype=torch.bool)
    hidden[0] = True
    want = target.masked_fill(hidden, -100)
    one_hot = F.one_hot(target, CLASSES).movedim(-1, place)
    for form in (want, want.int(), want.unsqueeze(place), one_hot.masked_fill(hidden.unsqueeze(place), -100)):
        assert torch.equal(class_indices(form, logits), want)
        assert torch.equal(class_indices(form.float(), logits) if form.shape == logits.shape else want, want)


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool, torch.float16, torch.float64])
def test_labels_of_single_numbers_become_floats_of_the_logits_shape(task: Task, dtype: torch.dtype) -> None:
    logits, target = torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]).to(dtype)
    for form in (target, target.unsqueeze(1)):
        for shape in (logits, logits.squeeze(1)):
            found = read_labels(form, shape, task)
            assert found.shape == shape.shape
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert found.flatten().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 4, 5)])
def test_a_binary_map_is_read_with_and_without_its_channel(shape: tuple[int, ...]) -> None:
    target = torch.randint(0, 2, shape)
    assert torch.equal(read_labels(target, torch.zeros(2, 1, 4, 5), "binary"), target.reshape(2, 1, 4, 5).float())


@pytest.mark.parametrize(
    ("target", "logits", "task", "message"),
    [
        (torch.zeros(4), (4, 3), "multiclass", "class indices must be integers, and these are float32.*'regression'"),
        (torch.zeros(4, 1), (4, 3), "multiclass", "class indices must be integers"),
        (torch.zeros(2, 5, 5), (2, 3, 5, 5), "multiclass", "class indices must be integers"),
        (
            torch.zeros(3).long(),
            (4, 3),
            "multiclass",
            r"labels \[3\] do not fit logits \[4, 3\]: .*class indices \[4\]",
        ),
        (
            torch.zeros(4, 2).long(),
            (4, 3),
            "multiclass",
            r"labels \[4, 2\] .*a one-hot or class probabilities \[4, 3\]",
        ),
        (torch.rand(4, 2), (4, 3), "multiclass", r"class probabilities \[4, 2\] do not fit"),
        (torch.ones(4, 3).long(), (4, 3), "multiclass", "a single 1; one has 3 in all.*task='multilabel'"),
        (torch.full((4, 3), 2.0), (4, 3), "multiclass", "run from 2 to 2.*task='regression'"),
        (torch.randn(4, 3), (4, 3), "multiclass", "class probabilities, and these run from"),
        (torch.full((4, 3), float("nan")), (4, 3), "multiclass", "run from nan"),
        (torch.ones(4, 3), (4, 3), "multiclass", "one sums to 3.*task='multilabel'"),
        (torch.full((4,), 7), (4, 3), "multiclass", "label 7 is no class: .* 3 classes.*0 to 2.*missing_label=7"),
        (torch.full((4,), -1), (4, 3), "multiclass", "label -1 is no class.*missing_label=-1"),
        (torch.full((2, 5, 5), 255).byte(), (2, 3, 5, 5), "multiclass", "label 255 is no class.*missing_label=255"),
        (torch.zeros(4, 2), (4, 1), "binary", r"labels \[4, 2\] .* task 'binary' are 0, 1 or probabilities \[4, 1\]"),
        (torch.zeros(4), (4, 2), "binary", "Two logits for two classes are task='multiclass'"),
        (torch.full((4,), 255).byte(), (4, 1), "binary", "label 255 is neither 0, 1.*missing_label=255.*by 255"),
        (torch.full((4, 3), -1), (4, 3), "multilabel", "label -1 is neither 0, 1.*missing_label=-1"),
        (torch.zeros(4).long(), (4, 3), "multilabel", "no class indices"),
        (torch.full((4, 3), float("nan")), (4, 3), "multilabel", "label nan is neither"),
        (torch.zeros(4, 2), (4, 3), "regression", r"labels of the task 'regression' are numbers \[4, 3\]"),
        (torch.zeros(2, 7).long(), (2, 5, 3), "multiclass", "labels for 7 positions, and logits for 5"),
    ],
)
def test_other_forms_are_refused_by_name(target: Tensor, logits: tuple[int, ...], task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_labels(target, torch.zeros(logits), task)


@pytest.mark.parametrize(
    ("target", "logits", "task", "sizes"),
    [
        ((4, 16, 16), (4, 3, 4, 4), "multiclass", "16 x 16 and the logits 4 x 4"),
        ((4, 1, 16, 16), (4, 3, 4, 4), "multiclass", "16 x 16 and the logits 4 x 4"),
        ((4, 3, 16, 16), (4, 3, 4, 4), "multiclass", "16 x 16 and the logits 4 x 4"),
        ((4, 16, 16), (4, 1, 8, 8), "binary", "16 x 16 and the logits 8 x 8"),
        ((4, 3, 16, 16), (4, 3, 8, 8), "multilabel", "16 x 16 and the logits 8 x 8"),
        ((4, 1, 16, 16), (4, 1, 8, 8), "regression", "16 x 16 and the logits 8 x 8"),
        ((2, 8, 8, 8), (2, 3, 4, 4, 4), "multiclass", "8 x 8 x 8 and the logits 4 x 4 x 4"),
    ],
)
def test_labels_of_another_size_name_both_and_the_remedy(
    target: tuple[int, ...], logits: tuple[int, ...], task: Task, sizes: str
) -> None:
    with pytest.raises(ValueError, match=f"The labels are {sizes}.*resize_logits=True") as caught:
        read_labels(torch.zeros(target).long(), torch.zeros(logits), task)
    assert str(list(target)) in str(caught.value)


def test_values_are_looked_at_where_it_is_asked_for() -> None:
    wrong = torch.full((4,), 7)
    assert torch.equal(read_labels(wrong, torch.zeros(4, 3), "multiclass", check=False), wrong)


@pytest.mark.parametrize("missing", [None, -100.0, float("nan")])
def test_a_regression_that_may_mean_its_minus_100_is_told(missing: float | None) -> None:
    reader = BatchReader(BatchFormat(missing_label=missing), numbers=True)
    batch = torch.zeros(2, 3), torch.tensor([[-100.0], [1.0]])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        reader.read(batch)
    assert [str(one.message)[:39] for one in told] == ["regression labels of -100 are read as n"] * (missing is None)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 5, 1), (4, 1, 3, 3), (4, 1, 3, 3, 3)])
def test_one_class_alone_is_refused_with_the_remedies(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="softmax over one class.*task='binary'.*task='regression'.*LogitMSE"):
        need_classes(torch.zeros(shape))


def test_the_classes_of_samples_are_read_without_logits() -> None:
    target = torch.tensor([2, 0, 1])
    forms = (target, target.byte(), target.unsqueeze(1), F.one_hot(target, 3), F.one_hot(target, 3).float())
    for form in forms:
        assert torch.equal(sample_classes(form, 3), target)
    for wrong in (target.float(), target[:2], torch.zeros(3, 2, 2)):
        with pytest.raises(ValueError, match=r"are not of 3 samples: give class indices \[3\]"):
            sample_classes(wrong, 3)
