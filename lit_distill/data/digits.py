"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lit_distill.data.base import ImageDataModule, InMemory, Sample, labels_of, split_by_class
from lit_distill.data.memory import MemoryDataset

_TEST_FRACTION = 0.25
_TEST_SEED = 0


class Digits(ImageDataModule):
    """1,797 grey images of 8x8 pixels in ten classes (Alpaydin and Kaynak 1998, the UCI test set).

    A quarter is the test set, the same whatever the seeds. Inputs are ``[1, 8, 8]`` in [0, 1].

    Args:
        batch_size: Images per batch and process.
        num_workers: Processes that load; 0 loads in the main one. If None, one per available core, up to 8.
        val_fraction: Share of the training data held out for validation, in (0, 1).
        train_size: Number of training images to keep, evenly from each class; all if None.
        split_seed: Seed of the split and of ``train_size``, separate from the seed of the training.
        augment: Transforms of the training images only, before they become floats.
        mix: MixUp or CutMix (``torchvision.transforms.v2``) of training batches, before both networks.
        in_memory: True augments in batches; the digits are in memory either way.
        labelled: Number of training images that keep their label, evenly from each class; the others train nothing.

    Raises:
        ImportError: scikit-learn is missing.
    """

    def __init__(
        self,
        batch_size: int = 32,
        num_workers: int | None = 0,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        in_memory: InMemory = False,
        labelled: int | None = None,
    ) -> None:
        super().__init__(
            batch_size, num_workers, val_fraction, train_size, split_seed, augment, mix, in_memory, labelled
        )

    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        images, labels = _read_digits()
        _, rest = split_by_class(labels_of(labels), _TEST_FRACTION, _TEST_SEED)
        images, labels = images[rest], labels[rest]
        plain = _Augmented(images, labels, [])
        return self._split_training(labels_of(labels), _Augmented(images, labels, self.augment), plain)

    def open_test(self) -> Dataset[Sample]:
        images, labels = _read_digits()
        test, _ = split_by_class(labels_of(labels), _TEST_FRACTION, _TEST_SEED)
        return self._part(_Augmented(images, labels, []), test)

    def _remember(self, data: Any, indices: Sequence[int], augmented: bool) -> MemoryDataset:
        chosen = list(indices)
        return MemoryDataset(data.images[chosen], data.labels[chosen], self.augment if augmented else [])


class _Augmented(Dataset[Sample]):
    def __init__(self, images: Tensor, labels: Tensor, augment: list[nn.Module]) -> None:
        self.images, self.labels = images, labels
        self.augment = nn.Sequential(*augment)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.augment(self.images[index]), self.labels[index]


def _read_digits() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'lit-distill[demo]'") from error
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(bunch.target)
