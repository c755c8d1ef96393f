"""Training data of which only a part is labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lit_distill.data import Digits, ImageFolder


def training(**options: Any) -> list[tuple[torch.Tensor, int]]:
    data = Digits(**options)
    data.setup("fit")
    assert data.train_data is not None
    return [(data.train_data[i][0], int(data.train_data[i][1])) for i in range(len(data.train_data))]  # type: ignore[arg-type]


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_labelled_ones_are_those_that_train_size_keeps(in_memory: bool) -> None:
    everything, few = training(), training(train_size=100, in_memory=in_memory)
    mixed = training(labelled=100, in_memory=in_memory)
    assert len(mixed) == len(everything)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(mixed, everything, strict=True))
    shown = [(image, label) for image, label in mixed if label != -100]
    assert len(shown) == 100
    assert all(torch.equal(a, b) and m == n for (a, m), (b, n) in zip(shown, few, strict=True))
    assert all(label in (true, -100) for (_, label), (_, true) in zip(mixed, everything, strict=True))


def test_validation_and_test_keep_their_labels() -> None:
    data = Digits(labelled=10)
    data.setup("fit")
    data.setup("test")
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert all(bool((labels >= 0).all()) for _, labels in loader)


def test_image_folders(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / f"{index}.png")
    data = ImageFolder(str(tmp_path), num_workers=0, labelled=4)
    data.setup("fit")
    assert data.train_data is not None
    labels = [data.train_data[index][1] for index in range(12)]
    assert sorted(label for label in labels if label != -100) == [0, 0, 1, 1]
    assert data.val_data is not None
    assert all(data.val_data[index][1] >= 0 for index in range(4))


def test_with_mixing_is_refused() -> None:
    with pytest.raises(ValueError, match="mix labels, and with `labelled` some are missing"):
        Digits(labelled=10, mix=v2.MixUp(num_classes=10))


@pytest.mark.parametrize("labelled", [0, 5000])
def test_out_of_range(labelled: int) -> None:
    with pytest.raises(ValueError, match=rf"labelled must be between 1 and 1213, not {labelled}"):
        training(labelled=labelled)
