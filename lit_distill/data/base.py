"""What the image DataModules share: splits that never overlap, transforms, MixUp, loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

Sample = tuple[Any, Any]


class ImageDataModule(LightningDataModule, ABC):
    """Training, validation and test images.

    The validation data are held out from the training data by a seeded split of each class, unless the data
    set brings its own; the test data are opened by ``test`` and ``predict`` alone.

    Args:
        batch_size: Images a batch, of one process.
        num_workers: Processes that load; 0 loads in the main one.
        val_fraction: Share of the training data held out for validation, in (0, 1).
        train_size: Keep so many training images, evenly from each class; all where None.
        split_seed: Of the split and of ``train_size``, apart from the seed of the training.
        augment: Transforms of the training images alone, before they become floats.
        mix: MixUp or CutMix (``torchvision.transforms.v2``) of training batches, before both networks.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        batch_size: int = 128,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must be in (0, 1), not {val_fraction}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.train_size = train_size
        self.split_seed = split_seed
        self.augment = list(augment or [])
        self.mix = mix
        self.train_data: Dataset[Sample] | None = None
        self.val_data: Dataset[Sample] | None = None
        self.test_data: Dataset[Sample] | None = None

    @abstractmethod
    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        """The training and the validation data."""

    @abstractmethod
    def open_test(self) -> Dataset[Sample]:
        """The test data."""

    def setup(self, stage: str) -> None:
        """Open what a stage needs, once."""
        if stage in ("fit", "validate") and self.train_data is None:
            self.train_data, self.val_data = self.open_training()
        if stage in ("test", "predict") and self.test_data is None:
            self.test_data = self.open_test()

    def train_dataloader(self) -> DataLoader[Sample]:
        return self._loader(self.train_data, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._loader(self.val_data)

    def test_dataloader(self) -> DataLoader[Sample]:
        return self._loader(self.test_data)

    def predict_dataloader(self) -> DataLoader[Sample]:
        return self._loader(self.test_data)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mix a training batch, so that the teacher sees what the student sees."""
        if self.mix is not None and self.trainer is not None and self.trainer.training:
            return self.mix(*batch)
        return batch

    def _loader(self, data: Dataset[Sample] | None, shuffle: bool = False) -> DataLoader[Sample]:
        if data is None:
            raise RuntimeError(f"{type(self).__name__}.setup() comes before its loaders.")
        # Workers are seeded from torch's generator anew in every epoch, so that a resumed run repeats them;
        # persistent workers would carry a state that no checkpoint holds.
        return DataLoader(
            data,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _split_training(
        self, labels: Sequence[int], augmented: Dataset[Sample], plain: Dataset[Sample]
    ) -> tuple[Dataset[Sample], Dataset[Sample]]:
        """Split one data set, seen with and without augmentation, into training and validation."""
        held, kept = split_by_class(labels, self.val_fraction, self.split_seed)
        return self._limit(augmented, labels, kept), Subset(plain, held)

    def _limit(self, data: Dataset[Sample], labels: Sequence[int], indices: list[int]) -> Dataset[Sample]:
        """Keep ``train_size`` of the training images."""
        if self.train_size is None:
            return Subset(data, indices)
        if not 0 < self.train_size <= len(indices):
            raise ValueError(f"train_size must be between 1 and {len(indices)}, not {self.train_size}.")
        share = self.train_size / len(indices)
        chosen, _ = split_by_class([labels[i] for i in indices], share, self.split_seed + 1, count=self.train_size)
        return Subset(data, [indices[i] for i in chosen])


def split_by_class(
    labels: Sequence[int], fraction: float, seed: int, count: int | None = None
) -> tuple[list[int], list[int]]:
    """Split indices in two, each class in the same proportion.

    Args:
        labels: A label for each index.
        fraction: Share of the first part.
        seed: Of the choice.
        count: Exact size of the first part, where the rounding of the classes' shares must not decide.

    Returns:
        The indices of both parts, in order.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).tolist()
    by_class: dict[int, list[int]] = {}
    for index in order:
        by_class.setdefault(int(labels[index]), []).append(index)
    # Taking every class's members in turn keeps any number of them balanced.
    ranked = sorted(
        (place / len(members), index) for members in by_class.values() for place, index in enumerate(members)
    )
    size = count if count is not None else max(1, round(fraction * len(labels)))
    first = {index for _, index in ranked[:size]}
    return sorted(first), [index for index in range(len(labels)) if index not in first]


def image_pipeline(
    mean: Sequence[float], std: Sequence[float], before: Sequence[nn.Module] = (), size: int | None = None
) -> v2.Compose:
    """From an image to a normalised float tensor ``[C, H, W]``.

    Args:
        mean: Per channel, of images in [0, 1].
        std: Per channel.
        before: Transforms of the integer image.
        size: Resize the shorter side to 8/7 of it and cut the middle out, where given.
    """
    fit = [v2.Resize(round(size * 8 / 7), antialias=True), v2.CenterCrop(size)] if size is not None else []
    return v2.Compose(
        [v2.ToImage(), *before, *fit, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    )


def labels_of(targets: Sequence[int] | Tensor) -> list[int]:
    """A data set's labels as plain integers."""
    return [int(target) for target in targets]
