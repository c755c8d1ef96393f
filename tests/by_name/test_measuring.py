"""The numbers of the table, and what is chosen when nothing is given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_distill.by_name.measuring import paired_difference, right_answers
from lit_distill.by_name.networks import Network, Pixels
from lit_distill.by_name.outcome import NetworkRow, rows_as_text
from lit_distill.by_name.recipe import choose_recipe
from lit_distill.by_name.request import Request
from lit_distill.by_name.teaching import _knows
from lit_distill.data.folder_facts import FolderFacts, read_folder
from lit_distill.models.named import read_name
from lit_distill.models.sources import Described
from tests.by_name.folders import make_folder


class Brightest(nn.Module):
    """Answers with the channel that is brightest: blue is class 0, green 1, red 2."""

    def __init__(self, order: tuple[int, int, int]) -> None:
        super().__init__()
        self.order = list(order)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, self.order]


def test_right_answers_are_counted_on_the_same_images(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images", images=10)
    data = {"root": str(root), "num_workers": 0, "mean": [0.5] * 3, "std": [0.5] * 3, "augment": ["refused"]}
    found = right_answers({"all": Brightest((2, 1, 0)), "one": Brightest((0, 1, 2))}, data, "test")
    assert found["all"].tolist() == [True] * 6
    assert found["one"].tolist() == [False, False, True, True, False, False]  # green alone is in its place


def test_a_difference_is_that_of_pairs() -> None:
    one, other = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool()
    difference, error = paired_difference(one, other)
    assert (difference, error) == (0.5, pytest.approx(0.5 / math.sqrt(4)))
    assert paired_difference(one, one) == (0.0, 0.0)


def test_the_table_in_text() -> None:
    rows = [NetworkRow("student", "a", 0.5, 1000, 1.25), NetworkRow("no teacher", "a", 0.25, 1000, 1.25)]
    assert rows_as_text(rows, ["A note."]).splitlines() == [
        "            accuracy  parameters  ms/image",
        "student        50.0%       1,000       1.2  a",
        "no teacher     25.0%       1,000       1.2  a",
        "A note.",
    ]


@pytest.mark.parametrize(
    ("right", "count", "classes", "known"),
    [(229, 256, 10, True), (26, 256, 10, False), (40, 256, 10, False), (41, 256, 10, True), (10, 16, 2, False)],
)
def test_a_teacher_knows_classes_beyond_chance(right: int, count: int, classes: int, known: bool) -> None:
    assert _knows(right, count, classes) is known


def facts_of(train: int) -> FolderFacts:
    return FolderFacts(Path(), ("a", "b"), {"train": train, "val": 8}, (), ((16, 16), (16, 16)), ())


def network(text: str) -> Network:
    return Network(read_name("student", text), Described(), (16, 16), 2, "linear")


@pytest.mark.parametrize(("train", "size", "epochs"), [(144, 16, 100), (2000, 64, 32), (50_000, 64, 30), (65, 7, 100)])
def test_few_images_are_trained_on_for_longer(train: int, size: int, epochs: int) -> None:
    net = network("lit_distill.models.resnet8")
    chosen = choose_recipe(Request("t", "s", "d"), net, net, "none", facts_of(train))
    assert (chosen.batch_size, chosen.student.epochs, chosen.teacher) == (size, epochs, None)
    assert train % chosen.batch_size != 1  # BatchNorm cannot train on a single image


def test_the_images_are_those_of_the_larger_network(tmp_path: Path) -> None:
    pixels = Pixels((32, 32), (0.5,) * 3, (0.5,) * 3)
    other = Network(read_name("s", "lit_distill.models.resnet8"), Described((16, 24)), (16, 24), 2, "linear")
    assert pixels.adaptation(other) == {
        "size": [16, 24],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "student_mean": [0.5] * 3,
        "student_std": [0.5] * 3,
    }
    assert read_folder(make_folder(tmp_path / "i")).size == (16, 16)
