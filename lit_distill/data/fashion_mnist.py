"""Fashion-MNIST by torchvision, from the files that Debian packs or that torchvision downloads."""

from __future__ import annotations

import copy
import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.data import Dataset
from torchvision.datasets import FashionMNIST as TorchvisionFashionMNIST
from torchvision.transforms import v2

from lit_distill.data.base import ImageDataModule, InMemory, Sample, labels_of
from lit_distill.data.memory import MemoryDataset
from lit_distill.utils.arguments import check_flag, check_folder

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_WITHIN = Path("FashionMNIST", "raw")  # where torchvision keeps the files in its root
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class FashionMNIST(ImageDataModule):
    """70,000 grey images of clothes, 28x28 pixels in ten classes (Xiao et al. 2017), 10,000 of them for the test.

    Debian and Ubuntu ship the files: ``apt-get install dataset-fashion-mnist``.

    Args:
        root: Folder of the four files, packed (``.gz``) or not, or the one that torchvision downloaded them to. If None,
            Debian's, ``/usr/share/datasets/fashion-mnist``, or else ``data``.
        download: Fetch the files to ``root`` (``data`` if that is None) if they are not there.
        batch_size: Images per batch and process.
        num_workers: Processes that load; 0 loads in the main one. If None, one per available core, up to 8.
        val_fraction: Share of the training data held out for validation, in (0, 1).
        train_size: Number of training images to keep, evenly from each class; all if None.
        split_seed: Seed of the split and of ``train_size``, separate from the seed of the training.
        augment: Transforms of the training images only, before they become floats; if None, a random crop of the image
            padded by 2, and a horizontal flip.
        mix: MixUp or CutMix (``torchvision.transforms.v2``) of training batches, before both networks.
        mean: Of images in [0, 1]; that of the training images.
        std: Of images in [0, 1]; that of the training images.
        in_memory: True makes batches from memory; ``device`` makes them on the trainer's device.
        labelled: Number of training images that keep their label, evenly from each class; the others train nothing.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from lit_distill.data import FashionMNIST
        >>> FashionMNIST(train_size=5000, in_memory=True).batch_size
        128
    """

    def __init__(
        self,
        root: str | None = None,
        download: bool = False,
        batch_size: int = 128,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        mean: float = 0.286,
        std: float = 0.353,
        in_memory: InMemory = False,
        labelled: int | None = None,
    ) -> None:
        crop_and_flip = [v2.RandomCrop(28, padding=2), v2.RandomHorizontalFlip()]
        chosen = crop_and_flip if augment is None else augment
        super().__init__(
            batch_size, num_workers, val_fraction, train_size, split_seed, chosen, mix, in_memory, labelled
        )
        self.root = None if root is None else check_folder(root)
        self.download = check_flag("download", download)
        self._set_pipelines([mean], [std])

    def prepare_data(self) -> None:
        if self.download and self._find() is None:
            TorchvisionFashionMNIST(self._places()[-1], download=True)

    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        plain = self._open(train=True)
        augmented = copy.copy(plain)
        augmented.transform = self._augmented
        return self._split_training(labels_of(plain.targets), augmented, plain)

    def open_test(self) -> Dataset[Sample]:
        data = self._open(train=False)
        return self._part(data, range(len(data)))

    def _remember(self, data: Any, indices: Sequence[int], augmented: bool) -> MemoryDataset:
        chosen = list(indices)
        images, labels = data.data[chosen].unsqueeze(1), data.targets[chosen].long()
        return MemoryDataset(images, labels, self.augment if augmented else [], self._finish, data.classes)

    def _places(self) -> list[Path]:
        """Folders to look in; downloaded files go to the last."""
        return [DEBIAN, Path("data")] if self.root is None else [Path(self.root)]

    def _find(self) -> Path | None:
        """Find the folder in which the four files lie."""
        folders = (folder for place in self._places() for folder in (place, place / _WITHIN))
        return next((folder for folder in folders if all(_stored(folder, name) for name in _FILES)), None)

    def _open(self, train: bool) -> Any:
        """Open the training or the test images with torchvision's reader, which takes unpacked files only."""
        folder = self._find()
        if folder is None:
            raise FileNotFoundError(
                f"Fashion-MNIST is not in {' or '.join(map(str, self._places()))}: the four files {_FILES[0]}.gz, … are "
                "missing. Install them (apt-get install dataset-fashion-mnist), give the `root` that holds them, or set "
                "download=True."
            )
        rank_zero_info(f"Reading Fashion-MNIST's {'training' if train else 'test'} images from {folder}.")
        with TemporaryDirectory() as unpacked:
            for name in _FILES:
                _unpack(folder, name, Path(unpacked) / _WITHIN)
            return _read(folder, Path(unpacked), train, self._plain)


def _stored(folder: Path, name: str) -> Path | None:
    """Find a file in a folder, unpacked or packed."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _unpack(folder: Path, name: str, target: Path) -> None:
    """Put a file into a folder, unpacked."""
    source = _stored(folder, name)
    assert source is not None
    target.mkdir(parents=True, exist_ok=True)
    opener: Any = gzip.open if source.suffix == ".gz" else open
    try:
        with opener(source, "rb") as packed, (target / name).open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{source} is damaged: {error}") from error


def _read(folder: Path, unpacked: Path, train: bool, transform: v2.Compose) -> Any:
    """Read the unpacked files of a folder."""
    try:
        data = TorchvisionFashionMNIST(unpacked, train=train, transform=transform)
    except (AssertionError, LookupError, ValueError, RuntimeError) as error:
        raise ValueError(f"the files in {folder} are not Fashion-MNIST's, or damaged: {error!r}.") from error
    if len(data.data) != len(data.targets):
        raise ValueError(
            f"the files in {folder} are of two data sets, or damaged: {len(data.data)} images and {len(data.targets)} labels."
        )
    return data
