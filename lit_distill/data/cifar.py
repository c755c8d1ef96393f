"""CIFAR-10 and CIFAR-100 by torchvision."""

from __future__ import annotations

from typing import ClassVar

from torch import nn
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10
from torchvision.datasets import CIFAR100 as TorchvisionCIFAR100
from torchvision.transforms import v2

from lit_distill.data.base import ImageDataModule, InMemory, Sample, labels_of
from lit_distill.utils.arguments import check_flag, check_folder


class CIFAR10(ImageDataModule):
    """60,000 colour images of 32x32 pixels in ten classes (Krizhevsky 2009).

    Args:
        root: Folder of the data set.
        download: Fetch it if it is not there.
        batch_size: Images per batch and process.
        num_workers: Processes that load; 0 loads in the main one. If None, one per available core, up to 8.
        val_fraction: Share of the training data held out for validation, in (0, 1).
        train_size: Number of training images to keep, evenly from each class; all if None.
        split_seed: Seed of the split and of ``train_size``, separate from the seed of the training.
        augment: Transforms of the training images only, before they become floats; if None, a random crop of the image
            padded by 4, and a horizontal flip.
        mix: MixUp or CutMix (``torchvision.transforms.v2``) of training batches, before both networks.
        mean: Per channel, of images in [0, 1]; ImageNet's, which the shared CIFAR weights were trained with.
        std: Per channel.
        in_memory: True decodes every image once and makes batches from memory; ``device`` makes them on the trainer's device.
        labelled: Number of training images that keep their label, evenly from each class; the others train nothing.
    """

    dataset: ClassVar[type[TorchvisionCIFAR10]] = TorchvisionCIFAR10

    def __init__(
        self,
        root: str = "data",
        download: bool = True,
        batch_size: int = 128,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        in_memory: InMemory = False,
        labelled: int | None = None,
    ) -> None:
        crop_and_flip = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
        chosen = crop_and_flip if augment is None else augment
        super().__init__(
            batch_size, num_workers, val_fraction, train_size, split_seed, chosen, mix, in_memory, labelled
        )
        self.root = check_folder(root)
        self.download = check_flag("download", download)
        self._set_pipelines(mean, std)

    def prepare_data(self) -> None:
        if self.download:
            self.dataset(self.root, train=True, download=True)
            self.dataset(self.root, train=False, download=True)

    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        augmented = self.dataset(self.root, train=True, transform=self._augmented)
        plain = self.dataset(self.root, train=True, transform=self._plain)
        return self._split_training(labels_of(plain.targets), augmented, plain)

    def open_test(self) -> Dataset[Sample]:
        data = self.dataset(self.root, train=False, transform=self._plain)
        return self._part(data, range(len(data)))


class CIFAR100(CIFAR10):
    """60,000 colour images of 32x32 pixels in a hundred classes; arguments as of ``CIFAR10``."""

    dataset = TorchvisionCIFAR100
