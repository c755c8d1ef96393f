"""Images of your own, one folder per class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder as TorchvisionImageFolder
from torchvision.datasets.folder import find_classes

from lit_distill.data.base import (
    ImageDataModule,
    InMemory,
    Sample,
    split_by_class,
)
from lit_distill.utils.arguments import check_folder, check_number, check_whole


class ImageFolder(ImageDataModule):
    """Images as ``root/train/<class>/…``, ``root/val/<class>/…`` and ``root/test/<class>/…``.

    Without ``val``, validation data are split off ``train``. Without ``train``, the classes lie directly under ``root``,
    and all three parts are split off them.

    Args:
        root: Folder of the data set.
        batch_size: Images per batch and process.
        num_workers: Processes that load; 0 loads in the main one. If None, one per available core, up to 8.
        val_fraction: Share of the training data held out for validation, in (0, 1), if there is no ``val`` folder.
        test_fraction: Share held out for the test, in (0, 1), if there is no ``train`` folder.
        train_size: Number of training images to keep, evenly from each class; all if None.
        split_seed: Seed of the split and of ``train_size``, separate from the seed of the training.
        augment: Transforms of the training images only, before they become floats.
        mix: MixUp or CutMix (``torchvision.transforms.v2``) of training batches, before both networks.
        image_size: Bring every image to this size; if None, they keep their size.
        mean: Per channel, of images in [0, 1].
        std: Per channel.
        in_memory: True decodes every image once and makes batches from memory; ``device`` makes them on the trainer's device.
        labelled: Number of training images that keep their label, evenly from each class; the others train nothing.

    Raises:
        FileNotFoundError: A folder is missing or has no images.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 128,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        image_size: int | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        in_memory: InMemory = False,
        labelled: int | None = None,
    ) -> None:
        super().__init__(
            batch_size, num_workers, val_fraction, train_size, split_seed, augment, mix, in_memory, labelled
        )
        self.root = Path(check_folder(root))
        self.test_fraction = check_number("test_fraction", test_fraction, above=0, below=1)
        image_size = None if image_size is None else check_whole("image_size", image_size, least=1)
        self._set_pipelines(mean, std, image_size)

    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        folder = self.root / "train"
        if not folder.is_dir():
            if (self.root / "val").is_dir() or (self.root / "test").is_dir():
                raise FileNotFoundError(f"{self.root} has a val or test folder, and no folder {folder}.")
            return self._split_everything()
        augmented, plain = _open(folder, self._augmented), _open(folder, self._plain)
        if not (self.root / "val").is_dir():
            return self._split_training(augmented.targets, augmented, plain)
        held = _open(self.root / "val", self._plain)
        _same_classes(augmented.classes, held, folder)
        everything = list(range(len(augmented)))
        part = self._training_part(augmented, augmented.targets, everything, everything)
        return part, self._part(held, range(len(held)))

    def _split_everything(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        augmented, plain = _open(self.root, self._augmented), _open(self.root, self._plain)
        _, rest = split_by_class(plain.targets, self.test_fraction, self.split_seed)
        labels = [plain.targets[index] for index in rest]
        return self._split_training(labels, augmented, plain, rest)

    def open_test(self) -> Dataset[Sample]:
        if (self.root / "train").is_dir() or (self.root / "test").is_dir():
            test = _open(self.root / "test", self._plain)
            if (self.root / "train").is_dir():
                _same_classes(find_classes(str(self.root / "train"))[0], test, self.root / "train")
            return self._part(test, range(len(test)))
        data = _open(self.root, self._plain)
        chosen, _ = split_by_class(data.targets, self.test_fraction, self.split_seed)
        return self._part(data, chosen)


def _open(folder: Path, transform: Callable[[Any], Any]) -> TorchvisionImageFolder:
    expected = f"expected {folder}/<class>/<image>"
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; {expected}.")
    try:
        return TorchvisionImageFolder(str(folder), transform)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no images, or a class without any; {expected}. {error}") from error


def _same_classes(classes: list[str], other: TorchvisionImageFolder, folder: Path) -> None:
    if classes != other.classes:
        differ = sorted(set(classes) ^ set(other.classes))
        raise ValueError(f"the classes of {other.root} are not those of {folder}: {', '.join(differ[:5])} differ.")
