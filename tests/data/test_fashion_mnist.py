"""Fashion-MNIST from small files that the tests write, and from Debian's where they are installed."""

from __future__ import annotations

import gzip
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lit_distill.data import FashionMNIST, fashion_mnist

MEAN, STD = 0.286, 0.353


def write_part(folder: Path, part: str, first: int, count: int, packed: bool) -> None:
    """Grey images in the IDX format, each of one value, and the labels 0 to 9 in turn."""
    pixels = np.repeat(np.arange(first, first + count, dtype=np.uint8), 28 * 28)
    images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
    labels = struct.pack(">II", 0x801, count) + bytes(index % 10 for index in range(count))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def write_files(folder: Path, packed: bool = True) -> Path:
    write_part(folder, "train", 0, 100, packed)
    write_part(folder, "t10k", 100, 20, packed)
    return folder


def values(part: Any) -> list[int]:
    return [round(255 * (float(image[0, 0, 0]) * STD + MEAN)) for image, _ in part]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("within", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_values_labels_and_split(tmp_path: Path, packed: bool, within: str, in_memory: bool) -> None:
    write_files(tmp_path / within, packed)
    workers = None if in_memory else 0
    data = FashionMNIST(str(tmp_path), augment=[], val_fraction=0.2, in_memory=in_memory, num_workers=workers)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert [len(part) for part in (data.train_data, data.val_data, data.test_data)] == [80, 20, 20]
    assert Counter(int(label) for _, label in data.val_data) == dict.fromkeys(range(10), 2)
    assert sorted(values(data.train_data) + values(data.val_data)) == list(range(100))
    assert all(value % 10 == int(label) for value, (_, label) in zip(values(data.val_data), data.val_data, strict=True))
    assert values(data.test_data) == list(range(100, 120))
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype, labels.dtype) == ((80, 1, 28, 28), torch.float32, torch.int64)


def test_memory_and_files_give_the_same_images_in_the_same_split(tmp_path: Path) -> None:
    write_files(tmp_path)
    found = []
    for in_memory in (True, False):
        data = FashionMNIST(str(tmp_path), augment=[], train_size=40, in_memory=in_memory)
        data.setup("fit")
        found.append([(image, int(label)) for part in (data.train_data, data.val_data) for image, label in part])
    assert len(found[0]) == len(found[1]) == 50
    for (image, label), (other, its_label) in zip(*found, strict=True):
        assert torch.equal(image, other)
        assert label == its_label


def test_training_images_alone_are_cropped_and_flipped(tmp_path: Path) -> None:
    write_files(tmp_path)
    data = FashionMNIST(str(tmp_path), num_workers=0)
    assert [type(transform) for transform in data.augment] == [v2.RandomCrop, v2.RandomHorizontalFlip]
    data.setup("fit")
    padded = [image.unique().numel() > 1 for _ in range(5) for image, _ in data.train_data]
    assert any(padded)
    assert all(image.unique().numel() == 1 for image, _ in data.val_data)


def test_absent(tmp_path: Path) -> None:
    data = FashionMNIST(str(tmp_path))
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"not in .*apt-get install dataset-fashion-mnist.*download=True"):
        data.setup("fit")


def test_one_file_missing_is_absent(tmp_path: Path) -> None:
    (write_files(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError):
        FashionMNIST(str(tmp_path)).setup("fit")


def test_without_a_root_debian_comes_before_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    write_part(tmp_path / "data/FashionMNIST/raw", "train", 0, 10, packed=False)
    write_part(tmp_path / "data/FashionMNIST/raw", "t10k", 100, 20, packed=False)
    counts = []
    for _ in range(2):
        data = FashionMNIST(augment=[], num_workers=0)
        data.setup("fit")
        counts.append(len(data.train_data) + len(data.val_data))
        write_files(tmp_path / "debian")
    assert counts == [10, 100]


def test_downloads_only_when_asked_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        fashion_mnist, "TorchvisionFashionMNIST", lambda root, download: asked.append((Path(root), download))
    )
    FashionMNIST(str(tmp_path)).prepare_data()
    assert not asked
    FashionMNIST(str(tmp_path), download=True).prepare_data()
    assert asked == [(tmp_path, True)]
    write_files(tmp_path)
    FashionMNIST(str(tmp_path), download=True).prepare_data()
    assert len(asked) == 1


DAMAGED = (b"", b"nothing", gzip.compress(b"nothing"), gzip.compress(b""))


@pytest.mark.parametrize("content", DAMAGED, ids=("empty", "no gzip", "no images", "nothing packed"))
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (write_files(tmp_path) / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        FashionMNIST(str(tmp_path)).setup("fit")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged"):
        FashionMNIST(str(tmp_path)).setup("fit")


def test_as_many_labels_as_images(tmp_path: Path) -> None:
    write_part(write_files(tmp_path) / "other", "train", 0, 90, packed=True)
    os.replace(tmp_path / "other/train-labels-idx1-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(ValueError, match="100 images and 90 labels"):
        FashionMNIST(str(tmp_path)).setup("fit")


@pytest.mark.slow
def test_the_real_files() -> None:
    if not fashion_mnist.DEBIAN.is_dir():
        reason = "dataset-fashion-mnist is not installed"
        pytest.skip(reason)
    data = FashionMNIST(train_size=1000, in_memory=True, augment=[])
    data.setup("fit")
    data.setup("test")
    assert [len(part) for part in (data.train_data, data.val_data, data.test_data)] == [1000, 6000, 10000]
    assert Counter(int(label) for _, label in data.test_data) == dict.fromkeys(range(10), 1000)
    images = torch.stack([image for image, _ in data.val_data])
    assert float(images.mean()) == pytest.approx(0, abs=0.01)
    assert float(images.std()) == pytest.approx(1, abs=0.01)
