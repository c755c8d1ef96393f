"""Marks that change with what they mark, and with nothing else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset, default_collate
from torchvision.transforms import v2

from lit_distill.models import SmallCNN
from lit_distill.recording.fingerprint import (
    content_digest,
    describe_transforms,
    fingerprint_data,
    fingerprint_model,
    installed_versions,
    manifest_differences,
)
from lit_distill.recording.replay import ReplayData


def test_every_weight_and_buffer_of_the_teacher_counts() -> None:
    model = SmallCNN(2)
    first = fingerprint_model(model)
    assert fingerprint_model(copy.deepcopy(model)) == first
    for name in model.state_dict():
        other = copy.deepcopy(model)
        other.state_dict()[name].view(-1)[-1:].add_(1)
        assert fingerprint_model(other)["weights"] != first["weights"], name
    assert first["class"] == "lit_distill.models.small.SmallCNN"


class Pictures(Dataset[Any]):
    def __init__(self, transform: Any, shift: int = 0) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 200, (40, 3, 8, 8), generator=generator, dtype=torch.uint8) + shift
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index]), index


def marks(data: Any, views: int = 2) -> dict[str, Any]:
    return fingerprint_data(ReplayData(data, default_collate, 0), views)


def crop(padding: int = 2) -> v2.Compose:
    return v2.Compose([v2.RandomCrop(8, padding=padding), v2.RandomHorizontalFlip()])


@pytest.mark.parametrize(
    "other",
    [
        Pictures(crop(padding=1)),
        Pictures(v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(8, padding=2)])),
        Pictures(v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip(), v2.ColorJitter(0.2)])),
        Pictures(crop(), shift=1),
        Subset(Pictures(crop()), range(39)),
        Subset(Pictures(crop()), [*range(1, 40), 0]),
    ],
    ids=["padding", "order", "one more", "pixels", "fewer samples", "another order of samples"],
)
def test_a_change_of_data_or_transforms_changes_the_mark(other: Any) -> None:
    assert marks(Pictures(crop()))["digest"] != marks(other)["digest"]


def test_the_same_data_made_again_have_the_same_mark() -> None:
    assert marks(Pictures(crop())) == marks(Pictures(crop()))


def test_transforms_are_described_through_subsets_and_without_addresses() -> None:
    described = describe_transforms(Subset(Pictures(v2.Lambda(lambda x: x)), [0]))
    assert len(described) == 1
    assert described[0].startswith("transform: Lambda")
    assert "0x" not in described[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0]])),
        (torch.tensor([1]), torch.tensor([1], dtype=torch.int32)),
        (np.array([1, 2]), np.array([2, 1])),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ([1, [2, 3]], [[1, 2], 3]),
        (Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))),
        ("x", "y"),
        (None, 0),
    ],
)
def test_digests_tell_things_apart(one: Any, other: Any) -> None:
    assert content_digest(one) == content_digest(copy.deepcopy(one))
    assert content_digest(one) != content_digest(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.float64, torch.int64])
def test_digests_take_every_type(dtype: torch.dtype) -> None:
    assert content_digest(torch.zeros(3, dtype=dtype)) != content_digest(torch.ones(3, dtype=dtype))
    assert content_digest(torch.zeros((), dtype=dtype)) != content_digest(torch.zeros(0, dtype=dtype))


def test_differences_are_named_by_their_path() -> None:
    lines = manifest_differences({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}})
    assert lines == ["a.c: recorded [1], now [2]", "d: recorded 2, now None"]


def test_versions_are_those_that_run() -> None:
    found = installed_versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"] == np.__version__
    assert found["pillow"] == Image.__version__


def test_a_network_without_weights_has_a_mark() -> None:
    assert fingerprint_model(nn.ReLU())["class"].endswith("ReLU")


def test_what_no_weight_shows_is_in_the_marks() -> None:
    from lit_distill.models import Ensemble, adapt

    torch.manual_seed(0)
    members = [nn.Linear(3, 2), nn.Linear(3, 2)]
    first = fingerprint_model(Ensemble(members))
    assert first == fingerprint_model(Ensemble(members))
    assert first != fingerprint_model(Ensemble(members, average="logits"))
    assert first != fingerprint_model(Ensemble(members, weights=[1, 2]))
    network = nn.Conv2d(1, 1, 1)
    assert fingerprint_model(adapt(network, size=4)) != fingerprint_model(adapt(network, size=5))
