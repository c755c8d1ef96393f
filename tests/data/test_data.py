"""Splits, folders, augmentation and mixing."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.transforms import v2

from lit_distill import LogitDistillation
from lit_distill.data import CIFAR10, CIFAR100, Digits, ImageDataModule, ImageFolder
from lit_distill.data.base import split_by_class
from lit_distill.models import SmallCNN

MakeTrainer = Callable[..., Trainer]
LABELS = [0] * 50 + [1] * 30 + [2] * 20


def images_of(data: Any) -> set[bytes]:
    return {bytes(image.numpy().tobytes()) for image, _ in data}


def labels_in(data: Any) -> Counter[int]:
    return Counter(int(label) for _, label in data)


class TestSplitByClass:
    @pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
    def test_covers_everything_once_in_proportion(self, fraction: float) -> None:
        first, second = split_by_class(LABELS, fraction, seed=0)
        assert sorted(first + second) == list(range(100))
        assert (first, second) == (sorted(first), sorted(second))
        assert len(first) == round(100 * fraction)
        counts = Counter(LABELS[index] for index in first)
        for label, size in Counter(LABELS).items():
            assert abs(counts[label] - fraction * size) <= 1

    def test_seeded(self) -> None:
        state = torch.get_rng_state()
        assert split_by_class(LABELS, 0.3, 1) == split_by_class(LABELS, 0.3, 1)
        assert split_by_class(LABELS, 0.3, 1) != split_by_class(LABELS, 0.3, 2)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("count", [1, 3, 10, 33, 100])
    def test_exact_count(self, count: int) -> None:
        assert len(split_by_class(LABELS, count / 100, 0, count=count)[0]) == count

    def test_unsorted_labels(self) -> None:
        labels = [index % 4 for index in range(40)]
        first, _ = split_by_class(labels, 0.2, 0)
        assert Counter(labels[index] for index in first) == dict.fromkeys(range(4), 2)


class TestDigits:
    def test_splits_never_overlap_and_cover_everything(self) -> None:
        data = Digits()
        data.setup("fit")
        data.setup("test")
        parts = [images_of(part) for part in (data.train_data, data.val_data, data.test_data)]
        sizes = [len(part) for part in (data.train_data, data.val_data, data.test_data)]
        assert sizes == [1213, 135, 449]
        assert sum(sizes) == 1797
        assert sum(map(len, parts)) == len(set.union(*parts))
        for part, size in zip((data.train_data, data.val_data, data.test_data), sizes, strict=True):
            assert all(abs(count - size / 10) <= 2 + size / 200 for count in labels_in(part).values())

    def test_values(self) -> None:
        data = Digits()
        data.setup("fit")
        image, label = data.train_data[0]
        assert image.shape == (1, 8, 8)
        assert (image.min(), image.max()) == (0, 1)
        assert label.dtype == torch.int64

    def test_split_seed(self) -> None:
        def opened(seed: int) -> tuple[set[bytes], set[bytes]]:
            data = Digits(split_seed=seed)
            data.setup("validate")
            data.setup("test")
            return images_of(data.val_data), images_of(data.test_data)

        assert opened(0) == opened(0)
        assert opened(0)[0] != opened(1)[0]
        assert opened(0)[1] == opened(1)[1]

    @pytest.mark.parametrize("size", [1, 100, 505, 1213])
    def test_train_size(self, size: int) -> None:
        data = Digits(train_size=size)
        data.setup("fit")
        whole = Digits()
        whole.setup("fit")
        assert len(data.train_data) == size
        assert images_of(data.train_data) <= images_of(whole.train_data)
        assert images_of(data.val_data) == images_of(whole.val_data)
        counts = labels_in(data.train_data)
        assert max(counts.values()) - min(counts.get(label, 0) for label in range(10)) <= 1 + size // 100

    @pytest.mark.parametrize("size", [0, -1, 1214])
    def test_train_size_out_of_range(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"train_size must be between 1 and 1213, not {size}"):
            Digits(train_size=size).setup("fit")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
            ({"val_fraction": 0.0}, r"val_fraction must be in \(0, 1\), not 0.0"),
            ({"val_fraction": 1.0}, r"val_fraction must be in \(0, 1\), not 1.0"),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Digits(**arguments)

    def test_loaders_need_setup(self) -> None:
        with pytest.raises(RuntimeError, match=r"Digits.setup\(\) comes before its loaders"):
            Digits().train_dataloader()

    def test_the_test_data_are_untouched_by_fit(
        self, monkeypatch: pytest.MonkeyPatch, quick_trainer: MakeTrainer
    ) -> None:
        opened = []
        original = Digits.open_test
        monkeypatch.setattr(Digits, "open_test", lambda self: opened.append(1) or original(self))
        data, trainer = Digits(train_size=64), quick_trainer()
        module = LogitDistillation(SmallCNN(2), SmallCNN(2))
        trainer.fit(module, data)
        trainer.validate(module, data, verbose=False)
        assert not opened
        trainer.test(module, data, verbose=False)
        trainer.predict(module, data)
        assert opened == [1]

    def test_only_the_training_loader_shuffles(self) -> None:
        data = Digits(batch_size=2000)
        data.setup("fit")
        data.setup("test")
        first, again = (next(iter(data.train_dataloader()))[1] for _ in range(2))
        assert not torch.equal(first, again)
        assert torch.equal(first.sort().values, again.sort().values)
        for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
            assert torch.equal(next(iter(loader))[1], next(iter(loader))[1])


class TestAugment:
    def test_training_images_alone(self) -> None:
        plain, data = Digits(), Digits(augment=[v2.RandomHorizontalFlip(p=1.0)])
        for each in (plain, data):
            each.setup("fit")
            each.setup("test")
        for index in (0, 7):
            assert torch.equal(data.train_data[index][0], plain.train_data[index][0].flip(-1))
            assert torch.equal(data.val_data[index][0], plain.val_data[index][0])
            assert torch.equal(data.test_data[index][0], plain.test_data[index][0])

    def test_workers_are_seeded(self) -> None:
        def draw(seed: int) -> list[Tensor]:
            seed_everything(seed, workers=True, verbose=False)
            data = Digits(batch_size=32, num_workers=2, train_size=128, augment=[v2.RandomCrop(8, padding=2)])
            data.setup("fit")
            loader = data.train_dataloader()
            return [batch[0] for _ in range(2) for batch in loader]

        first, again, other = draw(1), draw(1), draw(2)
        assert len(first) == 8
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        assert not torch.equal(
            torch.cat(first[:4]).sum((1, 2, 3)).sort().values, torch.cat(first[4:]).sum((1, 2, 3)).sort().values
        )


class TestMix:
    @pytest.mark.parametrize("name", ["MixUp", "CutMix"])
    def test_both_networks_see_the_mixed_batch_in_training_alone(self, name: str, quick_trainer: MakeTrainer) -> None:
        parser = ArgumentParser()
        parser.add_subclass_arguments(ImageDataModule, "data")
        mix = {"class_path": f"torchvision.transforms.v2.{name}", "init_args": {"num_classes": 10}}
        config = {"class_path": "lit_distill.data.Digits", "init_args": {"mix": mix, "train_size": 64}}
        data = parser.instantiate_classes(parser.parse_object({"data": config})).data
        student, teacher = SmallCNN(2), SmallCNN(2)
        module = LogitDistillation(student, teacher)
        seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}

        class Watching(LogitDistillation):
            def on_train_start(self) -> None:
                super().on_train_start()
                for who, network in (("student", student), ("teacher", teacher)):
                    network.register_forward_pre_hook(lambda _, args, who=who: seen[who].append(args[0].clone()))

        module.__class__ = Watching
        trainer = quick_trainer(num_sanity_val_steps=0, limit_val_batches=2)
        trainer.fit(module, data)
        steps = 64 // data.batch_size
        known = images_of(data.train_data)
        for given, got in zip(seen["student"], seen["teacher"], strict=True):
            assert torch.equal(given, got)
        trained, validated = torch.cat(seen["student"][:steps]), seen["student"][steps:]
        assert sum(image.numpy().tobytes() in known for image in trained) < len(trained)
        held = images_of(data.val_data)
        assert len(validated) == 2
        assert all(image.numpy().tobytes() in held for image in torch.cat(validated))


def write_images(folder: Path, counts: dict[str, int], size: int = 4) -> None:
    """Images of one colour each: red is the class, green the split, blue the number."""
    for position, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            colour = (10 * position, len(folder.name), index)
            Image.new("RGB", (size, size), colour).save(folder / name / f"{index:03}.png")


PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "num_workers": 0}


def colours(data: Any) -> list[tuple[int, int, int]]:
    return [tuple((255 * image[:, 0, 0]).round().int().tolist()) for image, _ in data]


class TestImageFolder:
    def test_train_val_and_test(self, tmp_path: Path) -> None:
        for name, count in (("train", 6), ("val", 2), ("test", 3)):
            write_images(tmp_path / name, {"cat": count, "dog": count})
        data = ImageFolder(str(tmp_path), **PLAIN)
        data.setup("fit")
        data.setup("test")
        for name, part, count in (
            ("train", data.train_data, 6),
            ("val", data.val_data, 2),
            ("test", data.test_data, 3),
        ):
            expected = [(red, len(name), blue) for red in (0, 10) for blue in range(count)]
            assert colours(part) == expected
            assert labels_in(part) == {0: count, 1: count}

    def test_without_val(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            write_images(tmp_path / name, {"cat": 10, "dog": 20})
        data = ImageFolder(str(tmp_path), val_fraction=0.2, **PLAIN)
        data.setup("fit")
        train, val = colours(data.train_data), colours(data.val_data)
        assert labels_in(data.val_data) == {0: 2, 1: 4}
        assert sorted(train + val) == sorted([(0, 5, i) for i in range(10)] + [(10, 5, i) for i in range(20)])

    def test_flat(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flat", {"cat": 20, "dog": 40})
        data = ImageFolder(str(tmp_path / "flat"), val_fraction=0.25, test_fraction=0.2, **PLAIN)
        data.setup("fit")
        data.setup("test")
        parts = [colours(part) for part in (data.train_data, data.val_data, data.test_data)]
        assert [len(part) for part in parts] == [36, 12, 12]
        assert labels_in(data.test_data) == {0: 4, 1: 8}
        assert labels_in(data.val_data) == {0: 4, 1: 8}
        assert len(set().union(*parts)) == 60
        for part in (data.train_data, data.val_data, data.test_data):
            assert all(label == colour[0] // 10 for colour, (_, label) in zip(colours(part), part, strict=True))

    def test_train_size_with_its_own_val(self, tmp_path: Path) -> None:
        for name in ("train", "val"):
            write_images(tmp_path / name, {"cat": 10, "dog": 10})
        data = ImageFolder(str(tmp_path), train_size=6, **PLAIN)
        data.setup("fit")
        assert labels_in(data.train_data) == {0: 3, 1: 3}
        assert len(data.val_data) == 20

    def test_normalised_resized_and_augmented(self, tmp_path: Path) -> None:
        write_images(tmp_path, {"cat": 4, "dog": 4}, size=16)
        flip = v2.RandomInvert(p=1.0)
        data = ImageFolder(str(tmp_path), augment=[flip], image_size=7, num_workers=0, val_fraction=0.5)
        data.setup("fit")
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        for part, inverted in ((data.train_data, True), (data.val_data, False)):
            for image, label in part:
                assert image.shape == (3, 7, 7)
                red = 10 * label / 255
                value = ((1 - red if inverted else red) - mean[0]) / std[0]
                torch.testing.assert_close(image[0], value.expand(7, 7))

    @pytest.mark.parametrize("stage", ["fit", "test"])
    def test_missing_folder(self, tmp_path: Path, stage: str) -> None:
        with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; expected .*<class>/<image>"):
            ImageFolder(str(tmp_path / "nowhere")).setup(stage)

    @pytest.mark.parametrize("stage", ["fit", "test"])
    def test_empty_folder(self, tmp_path: Path, stage: str) -> None:
        with pytest.raises(FileNotFoundError, match=r"has no images, or a class without any; expected"):
            ImageFolder(str(tmp_path)).setup(stage)

    def test_class_without_images(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", {"cat": 3, "dog": 0})
        with pytest.raises(FileNotFoundError, match=r"train has no images, or a class without any.*dog"):
            ImageFolder(str(tmp_path)).setup("fit")

    def test_missing_test_folder(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", {"cat": 3})
        with pytest.raises(FileNotFoundError, match=r"no folder .*test; expected"):
            ImageFolder(str(tmp_path)).setup("test")

    @pytest.mark.parametrize(("part", "stage"), [("val", "fit"), ("test", "test")])
    def test_other_classes_are_refused(self, tmp_path: Path, part: str, stage: str) -> None:
        """Labels go by the order of the names, so that one class less shifts those after it."""
        write_images(tmp_path / "train", {"cat": 3, "dog": 3, "eel": 3})
        write_images(tmp_path / part, {"cat": 3, "eel": 3})
        with pytest.raises(ValueError, match=rf"the classes of .*{part} are not those of .*train: dog differ"):
            ImageFolder(str(tmp_path)).setup(stage)

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_the_splits_are_no_classes(self, tmp_path: Path, part: str) -> None:
        for name in ("training", part):
            write_images(tmp_path / name, {"cat": 3})
        with pytest.raises(FileNotFoundError, match=r"has a val or test folder, and no folder .*train"):
            ImageFolder(str(tmp_path)).setup("fit")

    @pytest.mark.parametrize("fraction", [0.0, 1.0])
    def test_test_fraction(self, tmp_path: Path, fraction: float) -> None:
        with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\)"):
            ImageFolder(str(tmp_path), test_fraction=fraction)

    def test_real_images(self, cifar_images: Path) -> None:
        data = ImageFolder(str(cifar_images), train_size=100, **PLAIN)
        data.setup("fit")
        data.setup("test")
        assert [len(part) for part in (data.train_data, data.val_data, data.test_data)] == [100, 5000, 10_000]
        assert isinstance(data.train_data, Subset)
        assert labels_in(data.train_data) == dict.fromkeys(range(10), 10)
        assert data.test_data[0][0].shape == (3, 32, 32)


def write_cifar(root: Path, hundred: bool) -> None:
    """A data set in CIFAR's own format: every image has one value, which tells its number."""
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir()
    classes, key = (100, "fine_labels") if hundred else (10, "labels")
    names = ["train"] if hundred else [f"data_batch_{number}" for number in range(1, 6)]
    for part, name in enumerate([*names, "test" if hundred else "test_batch"]):
        count = 200 if hundred else 20
        values = (np.arange(count) + 20 * part) % 256
        pixels = np.repeat(values.astype(np.uint8)[:, None], 3072, axis=1)
        labels = [index % classes for index in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: labels}))
    meta = {"fine_label_names" if hundred else "label_names": [f"class{index}" for index in range(classes)]}
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any file as whole: ours have not the real ones' hashes."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.mark.usefixtures("unchecked")
class TestCifar:
    @pytest.mark.parametrize("download", [True, False])
    def test_cifar10(self, tmp_path: Path, download: bool) -> None:
        write_cifar(tmp_path, hundred=False)
        data = CIFAR10(str(tmp_path), download=download, augment=[], val_fraction=0.2, num_workers=0)
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        assert [len(part) for part in (data.train_data, data.val_data, data.test_data)] == [80, 20, 20]
        assert labels_in(data.val_data) == dict.fromkeys(range(10), 2)

        def values(part: Any) -> list[int]:
            return [round(255 * (float(image[0, 0, 0]) * 0.229 + 0.485)) for image, _ in part]

        assert sorted(values(data.train_data) + values(data.val_data)) == list(range(100))
        assert values(data.test_data) == list(range(100, 120))
        assert [label for _, label in data.test_data] == [*range(10), *range(10)]

    def test_cifar100(self, tmp_path: Path) -> None:
        write_cifar(tmp_path, hundred=True)
        data = CIFAR100(str(tmp_path), download=False, val_fraction=0.5, num_workers=0)
        data.setup("fit")
        assert labels_in(data.train_data) == labels_in(data.val_data) == dict.fromkeys(range(100), 1)

    def test_default_augmentation_is_crop_and_flip_of_training_images(self, tmp_path: Path) -> None:
        write_cifar(tmp_path, hundred=False)
        data = CIFAR10(str(tmp_path), download=False, num_workers=0)
        assert [type(transform) for transform in data.augment] == [v2.RandomCrop, v2.RandomHorizontalFlip]
        data.setup("fit")
        black = torch.tensor([-0.485 / 0.229]).item()
        edges = [float(image[0].min()) for _ in range(5) for image, _ in data.train_data]
        assert min(edges) == pytest.approx(black, abs=1e-5)
        image, _ = data.val_data[0]
        assert image[0].unique().numel() == 1
        assert image.shape == data.train_data[0][0].shape == (3, 32, 32)

    def test_absent_without_download(self, tmp_path: Path) -> None:
        data = CIFAR10(str(tmp_path), download=False)
        data.prepare_data()
        with pytest.raises(RuntimeError, match="Dataset not found or corrupted"):
            data.setup("fit")


def test_augment_none_and_empty_differ_for_cifar_alone() -> None:
    augment: list[nn.Module] = []
    assert CIFAR10(augment=augment).augment == []
    assert len(CIFAR10().augment) == 2
    assert Digits().augment == []
