"""Data sets in memory: the same batches as read one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lit_distill import LogitDistillation
from lit_distill.data import Digits, ImageDataModule, ImageFolder, memory
from lit_distill.data.memory import MemoryDataset, decode, usable_cores
from lit_distill.models import SmallCNN


def write_noise(root: Path, size: tuple[int, int] = (9, 8), parts: tuple[str, ...] = ("train", "test")) -> Path:
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for index in range(40):
            path = root / part / f"class{index % 4}" / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(path)
    return root


def epoch(data: ImageDataModule, stage: str = "fit") -> list[list[Tensor]]:
    data.setup(stage)
    torch.manual_seed(5)
    return [list(batch) for batch in (data.train_dataloader() if stage == "fit" else data.test_dataloader())]


def same(first: list[list[Tensor]], second: list[list[Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) and a.dtype == b.dtype
        for pair in zip(first, second, strict=True)
        for a, b in zip(*pair, strict=True)
    )


@pytest.mark.parametrize("kept", [True, "device"])
@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize("options", [{}, {"image_size": 7}, {"train_size": 12}])
@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test"), ("",)])
def test_plain_batches_are_those_read_one_by_one(
    tmp_path: Path, kept: Any, stage: str, options: dict[str, Any], parts: tuple[str, ...]
) -> None:
    write_noise(tmp_path, parts=parts)
    common: dict[str, Any] = {"batch_size": 8, "val_fraction": 0.2, **options}
    ordinary = ImageFolder(str(tmp_path), num_workers=0, **common)
    remembered = ImageFolder(str(tmp_path), in_memory=kept, **common)
    assert same(epoch(ordinary, stage), epoch(remembered, stage))
    if stage == "fit":
        assert same([list(b) for b in ordinary.val_dataloader()], [list(b) for b in remembered.val_dataloader()])


def test_digits() -> None:
    assert same(epoch(Digits()), epoch(Digits(in_memory=True)))
    assert same(epoch(Digits(), "test"), epoch(Digits(in_memory=True), "test"))


def test_augmented_images_are_pad_crop_flip_and_then_normalised(tmp_path: Path) -> None:
    write_noise(tmp_path)
    augment = [v2.RandomCrop((9, 8), padding=2), v2.RandomHorizontalFlip()]
    data = ImageFolder(str(tmp_path), augment=augment, in_memory=True, batch_size=8, val_fraction=0.2)
    data.setup("fit")
    train: Any = data.train_data
    assert train.images.dtype == torch.uint8
    finish = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    for image, label, original, expected in zip(
        *next(iter(data.train_dataloader())), train.images, train.labels, strict=False
    ):
        assert image.shape == (3, 9, 8)
        assert image.dtype == torch.float32
        assert label.dtype == expected.dtype == torch.int64
        assert original.shape == (3, 9, 8)
    inputs, labels = train.get_seeded([3, 7], [11, 12])
    padded = v2.functional.pad(train.images[[3, 7]], [2])
    for sample, got in enumerate(inputs):
        windows = [
            finish(window)
            for top in range(5)
            for left in range(5)
            for cut in (v2.functional.crop(padded[sample], top, left, 9, 8),)
            for window in (cut, v2.functional.horizontal_flip(cut))
        ]
        assert sum(torch.equal(got, window) for window in windows) == 1
    assert labels.tolist() == train.labels[[3, 7]].tolist()
    assert not data.val_data.augment  # type: ignore[union-attr]


class TestSeeds:
    def data(self) -> MemoryDataset:
        images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return MemoryDataset(images, torch.arange(20), [v2.RandomCrop(8, padding=3), v2.ColorJitter(0.5)])

    def test_a_sample_is_a_function_of_its_seed(self) -> None:
        data = self.data()
        whole, labels = data.get_seeded([4, 9, 4, 0], [5, 6, 7, 5])
        assert labels.tolist() == [4, 9, 4, 0]
        assert torch.equal(data.get_seeded([4], [7])[0][0], whole[2])
        assert not torch.equal(whole[0], whole[2])

    def test_batches_draw_one_seed_a_sample_from_torchs_generator(self) -> None:
        data = self.data()
        torch.manual_seed(3)
        found = data.__getitems__([1, 2, 3])
        state = torch.get_rng_state()
        torch.manual_seed(3)
        seeds = torch.randint(2**63 - 1, (3,)).tolist()
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(found[0], data.get_seeded([1, 2, 3], seeds)[0])
        assert not torch.equal(found[0], data.__getitems__([1, 2, 3])[0])

    def test_one_sample(self) -> None:
        data = self.data()
        torch.manual_seed(3)
        image, label = data[6]
        torch.manual_seed(3)
        assert torch.equal(image, data.__getitems__([6])[0][0])
        assert (label.item(), len(data)) == (6, 20)


@pytest.mark.parametrize("kept", [True, "device"])
def test_it_trains(tmp_path: Path, kept: Any, quick_trainer: Callable[..., Trainer]) -> None:
    write_noise(tmp_path)
    data = ImageFolder(
        str(tmp_path), 8, augment=[v2.RandomHorizontalFlip()], in_memory=kept, mix=v2.MixUp(num_classes=4)
    )
    trainer = quick_trainer(max_epochs=1)
    module = LogitDistillation(SmallCNN(2, 4, in_channels=3), SmallCNN(2, 4, in_channels=3))
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert trainer.callback_metrics["test/accuracy/student"] >= 0


class TestErrors:
    def test_different_sizes(self, tmp_path: Path) -> None:
        write_noise(tmp_path, (9, 8))
        write_noise(tmp_path / "train", (10, 8), parts=("class0",))  # in folders below: read as well
        with pytest.raises(ValueError, match=r"must have one shape: image .* is \[3, 10, 8\].*Set image_size"):
            ImageFolder(str(tmp_path), in_memory=True).setup("fit")
        data = ImageFolder(str(tmp_path), in_memory=True, image_size=8)
        data.setup("fit")
        assert data.train_data[0][0].shape == (3, 8, 8)

    def test_more_than_half_of_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        monkeypatch.setattr(memory, "free_memory", lambda: 2 * 10 * 192 - 1)
        with pytest.raises(MemoryError, match="10 decoded images need .*more than half.*in_memory=False"):
            decode(lambda index: image, range(10))
        monkeypatch.setattr(memory, "free_memory", lambda: 2 * 10 * 192)
        assert decode(lambda index: image, range(10)).shape == (10, 3, 8, 8)
        monkeypatch.setattr(memory, "free_memory", lambda: None)
        assert decode(lambda index: image, range(2)).shape == (2, 3, 8, 8)

    def test_arguments(self) -> None:
        with pytest.raises(ValueError, match="in_memory must be False, True or 'device', not 'cpu'"):
            Digits(in_memory="cpu")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="num_workers=2 has nothing to do with in_memory=True"):
            Digits(num_workers=2, in_memory=True)
        with pytest.raises(ValueError, match="3 images do not match 2 labels"):
            MemoryDataset(torch.zeros(3, 1, 2, 2), torch.zeros(2))
        with pytest.raises(ValueError, match="no image"):
            decode(lambda index: None, [])


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((2, 2), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert usable_cores() == ImageFolder("nowhere").num_workers == expected
    assert ImageFolder("nowhere", in_memory=True).num_workers == 0
    assert ImageFolder("nowhere", num_workers=3).num_workers == 3
    assert Digits().num_workers == 0
