"""Names of classes are found in data however they are wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset
from torchvision.io import write_png

from lit_distill.data import ImageFolder
from lit_distill.data.class_names import class_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                write_png(
                    torch.full((3, 8, 8), number, dtype=torch.uint8), str(tmp_path / part / name / f"{number}.png")
                )
    return tmp_path


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("labelled", [None, 4])
def test_a_folder_of_images_keeps_them_in_memory_and_with_hidden_labels(
    folder: Path, in_memory: bool, labelled: int | None
) -> None:
    data = ImageFolder(str(folder), num_workers=None if in_memory else 0, in_memory=in_memory, labelled=labelled)
    data.setup("fit")
    data.setup("test")
    for part in (data.train_data, data.val_data, data.test_data):
        assert class_names(part) == ("cat", "dog")
    assert class_names(Subset(ConcatDataset([data.test_data, data.test_data]), [0])) == ("cat", "dog")
