"""What is read of a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_distill.data import ImageFolder
from lit_distill.data.folder_facts import read_folder
from tests.by_name.folders import make_folder


def test_classes_alone_are_split_as_the_data_module_splits_them(tmp_path: Path) -> None:
    facts = read_folder(make_folder(tmp_path / "images", images=10))
    assert facts.classes == ("blue", "green", "red")
    assert (facts.counts, facts.split) == ({"train": 22, "val": 2, "test": 6}, ("val", "test"))
    assert (facts.size, facts.judged_on) == ((16, 16), "test")
    data = ImageFolder(str(tmp_path / "images"), num_workers=0)
    data.setup("test")
    assert len(data.test_dataloader().dataset) == facts.counts["test"]  # type: ignore[arg-type]


def test_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", images=10)
    make_folder(tmp_path / "val", images=4, size=(20, 24))
    facts = read_folder(tmp_path)
    assert (facts.counts, facts.split, facts.judged_on) == ({"train": 30, "val": 12}, (), "val")
    assert (facts.size, facts.sizes) == (None, ((16, 16), (20, 24)))
    make_folder(tmp_path / "test", images=2)
    assert read_folder(tmp_path).counts == {"train": 30, "val": 12, "test": 6}


def test_a_part_is_split_off_where_it_is_missing(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", images=10)
    make_folder(tmp_path / "test", images=2)
    facts = read_folder(tmp_path)
    assert (facts.counts, facts.split) == ({"train": 27, "val": 3, "test": 6}, ("val",))


def test_other_files_are_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    (root / "red/notes.txt").write_text("of the camera")
    facts = read_folder(root)
    assert facts.left_out == ("red/notes.txt",)
    assert facts.words().endswith("left out, as they are no images by their names: red/notes.txt")


def test_other_classes_in_a_part(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", classes=3)
    make_folder(tmp_path / "test", classes=2)
    with pytest.raises(ValueError, match="the classes of .*test are not those of .*train: red differ"):
        read_folder(tmp_path)


def test_a_class_that_is_too_small_to_be_split(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images", classes=2, images=10)
    for path in sorted((root / "green").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="green has too few images to be split"):
        read_folder(root)
