"""Marks of samples: every byte counts, and nothing that differs between processes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.utils.rnn import pack_sequence
from torchvision import tv_tensors

from lit_distill.data.memory import MemoryDataset
from lit_distill.recording.marks import mark, marks_of_rows


@dataclass
class Item:
    image: torch.Tensor
    name: str = "a"


class Graph:
    """An object with tensors, a counter and a lock-like thing."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.edges, self.reads, self.other = x, [torch.tensor([0, 1])], 0, object()


def picture(pixel: int = 0, mode: str = "RGB") -> Image.Image:
    made = Image.new(mode, (3, 2))
    made.putpixel((1, 1), pixel if mode in ("L", "P") else (pixel, 0, 0))
    return made


ONE = torch.arange(6.0).reshape(2, 3)
OTHER = ONE.clone()
OTHER[1, 2] = torch.nextafter(OTHER[1, 2], torch.tensor(9.0))
PAIRS = {
    "one bit of a tensor": (ONE, OTHER),
    "shape": (ONE, ONE.reshape(3, 2)),
    "type": (torch.tensor([1]), torch.tensor([1], dtype=torch.int32)),
    "minus zero": (torch.tensor([0.0]), torch.tensor([-0.0])),
    "bfloat16": (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
    "no dimension": (torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(2.0, dtype=torch.bfloat16)),
    "complex": (torch.tensor([1j]), torch.tensor([1j]).conj()),
    "sparse": (torch.eye(3).to_sparse(), (2 * torch.eye(3)).to_sparse()),
    "array": (np.array([1, 2]), np.array([2, 1])),
    "array of objects": (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
    "array of texts": (np.array(["ab"]), np.array(["ba"])),
    "dates": (np.array(["2020-01-01"], dtype="datetime64[D]"), np.array(["2020-01-02"], dtype="datetime64[D]")),
    "scalar": (np.float32(1), np.float64(1)),
    "dict": ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
    "nesting": ([1, [2, 3]], [[1, 2], 3]),
    "text": ("a cat", "a dog"),
    "bytes": (b"a", b"b"),
    "number": (1, True),
    "nothing": (None, 0),
    "size of an image": (Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))),
    "pixel": (picture(), picture(1)),
    "palette": (picture(1, "P"), picture(2, "P")),
    "tv_tensor": (tv_tensors.Image(torch.zeros(1, 2, 2)), tv_tensors.Image(torch.ones(1, 2, 2))),
    "dataclass": (Item(ONE), Item(OTHER)),
    "text in a dataclass": (Item(ONE), Item(ONE, "b")),
    "object with tensors": (Graph(ONE), Graph(OTHER)),
    "packed": (pack_sequence([ONE]), pack_sequence([OTHER])),
    "path": (PurePosixPath("a"), PurePosixPath("b")),
    "set": ({"a", "b"}, {"a", "c"}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_marks_tell_samples_apart(name: str) -> None:
    one, other = PAIRS[name]
    assert mark((one, 3)) == mark((copy.deepcopy(one), 3))
    assert mark((one, 3)) != mark((other, 3))


def test_what_an_object_counts_and_where_it_lies_is_no_part() -> None:
    one, other = Graph(ONE), Graph(ONE)
    other.reads = 7
    assert mark(one) == mark(other)
    assert mark(object()) == mark(object())
    assert mark(lambda: 1) == mark(lambda: 2)


def test_not_a_number_is_itself_and_views_are_their_values() -> None:
    values = torch.tensor([float("nan"), 1.0])
    assert mark(values) == mark(values.clone())
    grid = torch.arange(12.0).reshape(3, 4)
    assert mark(grid.t()) == mark(grid.clone().t()) != mark(grid)
    assert mark(grid[:, :2]) == mark(grid[:, :2].contiguous())
    assert mark(grid[:1].expand(3, 4)) == mark(grid[:1].repeat(3, 1))
    assert mark(grid.numpy().T) == mark(grid.numpy().T.copy())
    assert mark(values.requires_grad_()) == mark(values.detach())


def test_objects_in_a_circle_have_a_mark() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert mark(circle) == mark(circle)


def test_the_order_of_names_does_not_count() -> None:
    assert mark({"a": 1, "b": ONE}) == mark({"b": ONE, "a": 1})


@pytest.mark.slow
def test_marks_are_the_same_in_every_process() -> None:
    code = (
        "from lit_distill.recording.marks import mark; print(mark(({'a', 'b', 'c'}, {'x': 1.5}, 'é', None, object())))"
    )
    run = [sys.executable, "-c", code]
    found = {
        subprocess.run(
            run, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "12"
    }
    assert found == {f"{mark(({'a', 'b', 'c'}, {'x': 1.5}, 'é', None, object()))}\n"}


@pytest.mark.parametrize("form", ["tuple", "dict", "texts", "arrays", "with a shared number"])
def test_rows_of_a_batch_have_marks_of_their_own(form: str) -> None:
    images, labels = torch.randn(5, 3, 4), torch.arange(5)
    batches: dict[str, Any] = {
        "tuple": (images, labels),
        "dict": {"x": images, "y": labels},
        "texts": (["a", "b", "c", "d", "e"], labels),
        "arrays": (images.numpy(), labels.numpy()),
        "with a shared number": (images, labels, 7, torch.tensor(3.0)),
    }
    batch = batches[form]
    marks = marks_of_rows(batch, 5)
    assert len(set(marks.tolist())) == 5
    labels[2] = 9
    changed = marks_of_rows(batch, 5) != marks
    assert changed.tolist() == [False, False, True, False, False]


def test_images_in_memory_are_marked_once_and_again_when_changed() -> None:
    data = MemoryDataset(torch.randint(0, 255, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6))
    first = data.get_marks([4, 0, 4])
    assert first[0] == first[2] != first[1]
    data.images[4, 0, 0, 0] += 1
    again = data.get_marks([4, 0])
    assert again[0] != first[0]
    assert again[1] == first[1]
