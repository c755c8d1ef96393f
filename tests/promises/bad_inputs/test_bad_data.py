"""Data that would fail later, or train something else: refused before the first batch, or at the batch that holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lit_distill import BatchFormat
from lit_distill.criteria import CTKD, DKD, NKD, RLD, TTM, HardTarget, Hint, LogitMSE, SoftTarget, TeacherFree
from tests.promises.bad_inputs.doors import (
    DOORS,
    Case,
    Net,
    Watch,
    classes,
    collated,
    images,
    loader,
    of_the_outputs,
    rows,
    with_value,
)
from tests.promises.conftest import Tally

NAN, INF = float("nan"), float("inf")
pytestmark = [
    pytest.mark.slow,  # many small fits
    pytest.mark.filterwarnings("ignore::lit_distill.utils.notices.DistillationWarning"),
]
MakeTrainer = Callable[..., Trainer]


class Vectors(nn.Module):
    """A network whose BatchNorm sees vectors."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(64, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.fc(x.flatten(1))))


def flat(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def images_of(dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: loader((images() * 50).to(dtype))


def labels(make: Callable[[Tensor], Any]) -> Case:
    return Case(data=lambda: loader(y=make(classes())))


def of_task(task: Any, outputs: int, y: Callable[[], Any], **options: Any) -> Case:
    """A set-up whose labels ours alone read: the user's own loss in ``Distill`` takes none."""
    compare = LogitMSE() if task == "regression" else SoftTarget(task=task)
    return Case(
        flat(outputs),
        flat(outputs),
        lambda: {"hard": HardTarget(task=task), "soft": compare},
        data=lambda: loader(y=y()),
        task=task,
        loss=of_the_outputs,
        **options,
    )


def reading(criterion: Callable[[], Any], y: Callable[[], Any] = lambda: with_value(classes(), 0, 10)) -> Case:
    return Case(criteria=lambda: {"mine": criterion()}, data=lambda: loader(y=y()), loss=of_the_outputs)


TYPE = "the batch is of {} and the student's weights of float32"
FAILED = "training_step failed on a batch before the fit"
WHOLE = r"samples of the training data set .{}. cannot be put into one batch"
LONE = "25 samples in batches of 8, which leave one in the last, and BatchNorm1d 'norm' of the student needs two"

# What, the set-up, words of the error; and those of Distill where they are others, None where the case is not its own.
BAD: dict[str, tuple[Case, str] | tuple[Case, str, str | None]] = {
    # Values.
    "NaN in the first image": (
        Case(data=lambda: loader(with_value(images(), 0, NAN))),
        "the inputs hold NaN, sample 0",
    ),
    "NaN in the second image": (
        Case(data=lambda: loader(with_value(images(), 1, NAN))),
        "the inputs hold NaN, sample 1",
    ),
    "one NaN pixel": (Case(data=lambda: loader(images().index_fill(3, torch.tensor(2), NAN))), "the inputs hold NaN"),
    "infinity in the first image": (
        Case(data=lambda: loader(with_value(images(), 0, INF))),
        "the inputs hold infinity, sample 0",
    ),
    "NaN in a named input": (
        Case(
            data=lambda: collated(
                lambda: {"x": with_value(images(4), 2, NAN).flatten(1), "y": classes(4)},
            ),
            student=lambda: Named(),
            teacher=lambda: Named(),
            format=BatchFormat(input_key=["x"], target_key="y"),
        ),
        "the inputs hold NaN in 'x', sample 2 of 4",
        None,
    ),
    # Types.
    **{
        f"images of {str(dtype).removeprefix('torch.')}": (
            Case(data=images_of(dtype)),
            TYPE.format(str(dtype).removeprefix("torch.")),
        )
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int32, torch.int64)
    },
    "complex images": (Case(data=images_of(torch.complex64)), TYPE.format("complex64")),
    "a student in bfloat16": (
        Case(lambda: Net().bfloat16()),
        "the batch is of float32 and the student's weights of bfloat16",
    ),
    "a student in float64": (
        Case(lambda: Net().double()),
        "the batch is of float32 and the student's weights of float64",
    ),
    "vectors of float64": (
        Case(flat(10), flat(10), data=images_of(torch.float64)),
        TYPE.format("float64"),
    ),
    "vectors of integers": (Case(flat(10), flat(10), data=images_of(torch.uint8)), TYPE.format("uint8")),
    # Batches.
    "None in place of a batch": (Case(data=lambda: collated(lambda: None)), "yields None instead of a batch"),
    "an empty tuple": (Case(data=lambda: collated(tuple)), "yielded 0 entries", FAILED),
    "an empty batch": (
        Case(data=lambda: collated(lambda: (images(0), classes(0)))),
        "the first training batch is empty",
    ),
    "images of two sizes": (
        Case(data=lambda: loader([torch.randn(1, 8, 8 + i % 2) for i in range(8)], list(classes()))),
        "cannot be put into one batch.*resize or pad",
    ),
    "text for images": (Case(data=lambda: loader(["a"] * 8, list(classes()))), "the student .Net. failed", FAILED),
    "an empty data set": (
        Case(data=lambda: loader(images(0), classes(0))),
        "training data set .TensorDataset. is empty",
    ),
    "a data set in place of a loader": (
        Case(data=lambda: TensorDataset(images(), classes())),
        r"a data set \(TensorDataset\), whose samples are not put into batches; give DataLoader",
    ),
    "a tensor in place of a loader": (Case(data=images), "the training data are a Tensor .*give a DataLoader"),
    "a number in place of a loader": (Case(data=lambda: Loaded(3)), "the training data are an int.*give a DataLoader"),
    "a function in place of a loader": (
        Case(data=lambda: Loaded(loader)),
        "the training data are the function loader.*give a DataLoader",
    ),
    "batches in place of loaders": (
        Case(data=lambda: [(images(4), classes(4))]),
        "the training data are a Tensor .*give a DataLoader",
    ),
    "no loaders": (Case(data=lambda: Loaded([])), "the training data are an empty list; give a DataLoader"),
    "samples that are None": (Case(data=lambda: DataLoader([None] * 8, batch_size=4)), WHOLE.format("list")),
    "a stream of None": (Case(data=lambda: DataLoader(Stream(), batch_size=4)), WHOLE.format("Stream")),
    "labels of several lengths": (
        Case(data=lambda: DataLoader([(one, [1] * (n + 1)) for n, one in enumerate(images())], batch_size=4)),
        WHOLE.format("list") + ".*pad their lists",
    ),
    # What the batch format says.
    **{
        f"class_dim {dim}": (Case(format=BatchFormat(class_dim=dim)), f"class_dim is {dim}, and the student's logits")
        for dim in (0, 5, -3)
    },
    "a layout of no layer": (
        Case(format=BatchFormat(layout={"stge3": "channels_first"})),
        "layout of BatchFormat: no layer 'stge3' in the student Net; did you mean 'stage3'",
    ),
    "a layout of no layer of the teacher": (
        Case(format=BatchFormat(teacher_layout={"block*": "channels_first"})),
        r"teacher_layout of BatchFormat: no layer 'block\*' in the teacher Net",
    ),
    "labels without positions to shift": (
        Case(format=BatchFormat(shift_labels=True)),
        r"shift_labels.*labels \[\d\] have no positions",
        None,
    ),
    # Labels.
    **{
        f"complex labels of the task {task}": (
            of_task(task, outputs, lambda: classes(8, 2) * 1j),
            f"labels .* are complex numbers, and those of the task '{task}' are real",
        )
        for task, outputs in (("multiclass", 10), ("binary", 1), ("regression", 1))
    },
    "label 10 of 10": (
        labels(lambda y: with_value(y, 0, 10)),
        r"'hard'.*label 10 is no class: the logits are of 10.*\(sample 0 of \d\)",
        f"{FAILED}.*label 10 is no class.*.sample 0 of",
    ),
    "label -1": (
        labels(lambda y: with_value(y, 0, -1)),
        "label -1 .*missing_label=-1",
        f"{FAILED}.*label -1 .*missing_label=-1",
    ),
    "label 255": (
        labels(lambda y: with_value(y, 1, 255)),
        r"label 255 .*\(sample 1.*missing_label=255",
        f"{FAILED}.*label 255",
    ),
    "labels of text": (labels(lambda y: ["cat"] * 8), "'hard'.*those are text, such as 'cat'", FAILED),
    "labels of text and numbers": (labels(lambda y: ["1"] * 8), "'hard'.*those are text, such as '1'", FAILED),
    "labels that are floats": (labels(lambda y: y.float()), "'hard'.*must be integers, and these are float32", FAILED),
    "labels of NaN": (labels(lambda y: y.float() * NAN), "'hard'.*must be integers", FAILED),
    "one-hot of another width": (
        labels(lambda y: F.one_hot(y, 12)),
        r"'hard'.*\[\d, 12\] do not fit logits \[\d, 10\]",
        FAILED,
    ),
    "probabilities of another width": (
        labels(lambda y: F.one_hot(y, 9 + 3).float()),
        r"class probabilities \[\d, 12\] do not fit",
        FAILED,
    ),
    "negative probabilities": (
        labels(lambda y: torch.randn(8, 10)),
        "'hard'.*class probabilities, and these run from",
        None,
    ),
    "probabilities that sum to 2": (
        labels(lambda y: F.one_hot(y, 10) * 0.5 + 0.15),
        "'hard'.*sum to 1, and one sums to 2",
        None,
    ),
    "one-hot with two ones": (
        labels(lambda y: F.one_hot(y, 10) | F.one_hot((y + 1) % 10, 10)),
        "'hard'.*a single 1",
        None,
    ),
    "two labels each": (labels(lambda y: torch.stack([y, y], 1)), r"labels \[\d, 2\] do not fit logits", FAILED),
    "labels of fewer samples": (
        Case(data=lambda: collated(lambda: (images(4), classes(3)))),
        r"labels \[3\] do not fit logits \[4, 10\]",
        FAILED,
    ),
    "no labels": (
        Case(data=lambda: collated(lambda: (images(4), None))),
        "'hard'.*needs labels, and the batches have none",
        FAILED,
    ),
    "inputs alone": (Case(data=lambda: collated(lambda: images(4))), "'hard'.*needs labels", FAILED),
    "labels as a set": (
        Case(data=lambda: collated(lambda: (images(4), {1, 2}))),
        "needs labels in a tensor, and those are a set",
        FAILED,
    ),
    **{
        f"label out of range for {criterion.__name__}": (reading(criterion), "criterion 'mine'.*label 10 is no class")
        for criterion in (DKD, NKD, RLD, TTM, CTKD, TeacherFree)
        if criterion().needs_target
    },
    **{
        f"labels of text for {criterion.__name__}": (
            reading(criterion, lambda: ["cat"] * 8),
            "criterion 'mine'.*those are text",
        )
        for criterion in (DKD, NKD, RLD, TTM, CTKD, TeacherFree)
        if criterion().needs_target
    },
    # Labels of other tasks.
    "binary labels 0 to 9": (of_task("binary", 1, classes), "'hard'.*is neither 0, 1 nor a probability.*'binary'"),
    "binary label -1": (of_task("binary", 1, lambda: with_value(classes(8, 2), 0, -1)), "label -1 .*missing_label=-1"),
    "binary label 1.5": (
        of_task("binary", 1, lambda: with_value(classes(8, 2).float(), 0, 1.5)),
        "label 1.5 is neither",
    ),
    "binary label NaN": (
        of_task("binary", 1, lambda: with_value(classes(8, 2).float(), 0, NAN)),
        "label nan is neither",
    ),
    "multilabel 0 to 9": (of_task("multilabel", 5, lambda: torch.arange(40).view(8, 5) % 10), "is neither 0, 1 nor"),
    "multilabel 0 and 255": (of_task("multilabel", 5, lambda: torch.full((8, 5), 255)), "label 255 .*by 255"),
    "class indices for multilabel": (of_task("multilabel", 5, classes), "no class indices"),
    "multilabel of another width": (
        of_task("multilabel", 5, lambda: torch.zeros(8, 4)),
        r"\[\d, 4\] do not fit logits",
    ),
    "regression of NaN": (
        of_task("regression", 1, lambda: with_value(torch.randn(8), 0, NAN)),
        r"labels hold NaN, sample 0.*missing_label=float",
    ),
    "regression of infinity": (
        of_task("regression", 1, lambda: with_value(torch.randn(8), 0, INF)),
        "labels hold infinity",
    ),
    "regression of another width": (
        of_task("regression", 1, lambda: torch.randn(8, 3)),
        r"labels \[\d, 3\] do not fit logits",
    ),
    "two logits for a binary task": (of_task("binary", 2, lambda: classes(8, 2)), "task='multiclass'"),
    "one logit for classes": (of_task("multiclass", 1, lambda: classes(8, 2)), "set task='binary'"),
    # Batches of one.
    "the last batch of one": (Case(Vectors, data=lambda: loader(images(25), batch_size=8)), LONE),
    "the last batch of one, shuffled": (
        Case(Vectors, data=lambda: loader(images(25), batch_size=8, shuffle=True)),
        LONE,
    ),
    "batches of one": (
        Case(Vectors, data=lambda: loader(images(3), batch_size=1)),
        "training has batches of one sample.*BatchNorm1d 'norm' of the student needs two",
    ),
    "the last batch of one, reached in the second epoch": (
        Case(Vectors, data=lambda: loader(images(25), batch_size=8), trainer={"max_steps": 7, "max_epochs": 2}),
        LONE,
    ),
    "a projector with BatchNorm": (
        Case(
            criteria=lambda: {"soft": SoftTarget(), "hint": Hint("head", "head", projector_norm="batch")},
            data=lambda: loader(images(9), batch_size=4),
        ),
        "9 samples in batches of 4.*BatchNorm1d 'hint.*' of the criteria needs two",
    ),
}


class Stream(IterableDataset[None]):
    """A stream of nothing."""

    def __iter__(self) -> Iterator[None]:
        return iter([None] * 8)


class Loaded(LightningDataModule):
    """Gives what it was given as its loader."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given

    def train_dataloader(self) -> Any:
        return self.given


class Named(nn.Module):
    """A network whose input has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@pytest.mark.parametrize(("door", "case", "words"), rows(BAD))
def test_bad_data_are_refused_before_the_first_batch(
    door: str, case: Case, words: str, quick_trainer: MakeTrainer, tally: Tally
) -> None:
    watch = Watch()
    with pytest.raises((ValueError, TypeError), match=f"(?s){words}"):
        DOORS[door](case, quick_trainer, watch)
    assert not watch.batches, "it was found at the first batch"
    tally("bad data are refused before the first batch")


class Validated(LightningDataModule):
    """Right data to train on, others to validate on."""

    def __init__(self, validation: Any) -> None:
        super().__init__()
        self.validation = validation

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return self.validation


VALIDATION = {
    "label 12": (lambda: loader(y=with_value(classes(), 3, 12)), r"validation, batch 0: label 12 .*\(sample 3 of 4\)"),
    "label -1": (lambda: loader(y=with_value(classes(), 5, -1)), r"validation, batch 1: label -1.*missing_label=-1"),
    "labels of text": (lambda: loader(y=["cat"] * 8), "labels of a batch for evaluation are text"),
    "another size": (lambda: loader(images(8, 1, 4, 4)), r"the student \(Net\) failed.*\[4, 1, 4, 4\]"),
    "other channels": (lambda: loader(images(8, 3, 8, 8)), r"the student \(Net\) failed.*3 channels"),
    "float64": (lambda: loader(images().double()), r"the student \(Net\) failed.*float64"),
}


@pytest.mark.parametrize("what", VALIDATION)
def test_bad_validation_data_are_refused_in_the_sanity_check(
    what: str, quick_trainer: MakeTrainer, tally: Tally
) -> None:
    data, words = VALIDATION[what]
    watch = Watch()
    with pytest.raises(ValueError, match=f"(?s){words}"):
        DOORS["module"](Case(data=lambda: Validated(data())), quick_trainer, watch)
    assert not watch.batches
    tally("bad data are refused before the first batch")


LATER = {
    "label 10": (
        Case(data=lambda: loader(y=with_value(classes(), 6, 10))),
        ValueError,
        r"label 10 .*\(sample 2 of 4\)",
    ),
    "label -1": (Case(data=lambda: loader(y=with_value(classes(), 6, -1))), ValueError, "missing_label=-1"),
    "binary label 2": (
        of_task("binary", 1, lambda: with_value(classes(8, 2), 6, 2)),
        ValueError,
        r"label 2 is neither.*\(sample 2 of 4\)",
    ),
    "NaN in an image": (
        Case(data=lambda: loader(with_value(images(), 6, NAN))),
        FloatingPointError,
        r"loss is nan at step 1.*In this batch the inputs hold NaN, sample 2 of 4.*weights are those of",
    ),
    "a regression label of NaN": (
        of_task("regression", 1, lambda: with_value(torch.randn(8), 6, NAN)),
        FloatingPointError,
        "'hard' is nan.*the labels hold NaN, sample 2 of 4",
    ),
}


@pytest.mark.parametrize("what", LATER)
def test_what_only_a_later_batch_shows_stops_there_and_is_named(
    what: str, quick_trainer: MakeTrainer, tally: Tally
) -> None:
    case, kind, words = LATER[what]
    watch = Watch()
    with pytest.raises(kind, match=f"(?s){words}"):
        DOORS["module"](case, quick_trainer, watch)
    assert watch.batches == 2
    tally("bad data in a later batch stop the fit there, and are named")


def test_a_label_out_of_range_in_a_step_of_the_users_own_is_noted(quick_trainer: MakeTrainer, tally: Tally) -> None:
    with pytest.raises(IndexError) as caught:
        DOORS["Distill"](Case(data=lambda: loader(y=with_value(classes(), 6, 10))), quick_trainer, Watch())
    assert "label 10 is no class" in caught.value.__notes__[0]
    assert "(sample 2 of 4)" in caught.value.__notes__[0]
    tally("bad data in a later batch stop the fit there, and are named")
