"""Base of the image DataModules: splits that never overlap, transforms, MixUp, loaders."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import VisionDataset
from torchvision.transforms import v2

from lit_distill.data.labels import hide_labels
from lit_distill.data.memory import MemoryDataset, collate, decode, usable_cores
from lit_distill.files.reviving import Revivable
from lit_distill.utils.arguments import check_number, check_numbers, check_whole, wrong_type

Sample = tuple[Any, Any]
InMemory = bool | Literal["device"]


class ImageDataModule(Revivable, LightningDataModule, ABC):  # type: ignore[misc]  # its arguments are named otherwise
    """Training, validation and test images.

    The validation data are held out from the training data by a seeded split of each class, unless the data
    set brings its own; only ``test`` and ``predict`` open the test data.

    Args:
        batch_size: Images per batch and process.
        num_workers: Processes that load; 0 loads in the main one. If None, one per available core, up to 8.
        val_fraction: Share of the training data held out for validation, in (0, 1).
        train_size: Number of training images to keep, evenly from each class; all if None.
        split_seed: Seed of the split and of ``train_size``, separate from the seed of the training.
        augment: Transforms of the training images only, before they become floats.
        mix: MixUp or CutMix (``torchvision.transforms.v2``) of training batches, before both networks.
        in_memory: True decodes every image once, when the data are opened, and makes batches from memory; ``device``
            keeps the images on the trainer's device and makes the batches there. For images of one size that
            take less than half of the free memory. A sample is augmented as before, by other random numbers;
            images are brought to their size before it.
        labelled: Number of training images that keep their label, evenly from each class (those that ``train_size`` would
            keep); the others get -100, which trains nothing. All keep it if None.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        batch_size: int = 128,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
        mix: nn.Module | None = None,
        in_memory: InMemory = False,
        labelled: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = check_whole("batch_size", batch_size, least=1)
        self.val_fraction = check_number("val_fraction", val_fraction, above=0, below=1)
        if num_workers is not None:
            num_workers = check_whole("num_workers", num_workers, least=0)
        if not isinstance(in_memory, (str, int)) or in_memory not in (False, True, "device"):
            raise ValueError(f"in_memory must be False, True or 'device', not {in_memory!r}.")
        if in_memory and num_workers:
            raise ValueError(f"num_workers={num_workers} has nothing to do with in_memory={in_memory!r}; leave it out.")
        self.in_memory = in_memory
        self.num_workers = num_workers if num_workers is not None else 0 if in_memory else usable_cores()
        self.train_size = None if train_size is None else check_whole("train_size", train_size)
        self.split_seed = check_whole("split_seed", split_seed)
        self.augment = _transforms(augment)
        if isinstance(mix, type) or not (mix is None or callable(mix)):
            raise wrong_type("mix", mix, "give a transform of batches, such as v2.MixUp(num_classes=10).")
        self._fit: Callable[[Tensor], Tensor] | None = None  # brings an image to its size
        self._finish: Callable[[Tensor], Tensor] = nn.Identity()  # makes inputs of images of that size
        if labelled is not None and mix is not None:
            raise ValueError(
                "MixUp and CutMix mix labels, and with `labelled` some are missing; leave one of the two out."
            )
        self.mix = mix
        self.labelled = None if labelled is None else check_whole("labelled", labelled)
        self.train_data: Dataset[Sample] | None = None
        self.val_data: Dataset[Sample] | None = None
        self.test_data: Dataset[Sample] | None = None

    def _set_pipelines(self, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> None:
        """Set how images become inputs: brought to a size if one is given, in training augmented, and normalised."""
        self._fit = fit_image(size) if size is not None else None
        self._finish = finish_images(mean, std)
        self._plain = image_pipeline(mean, std, size=size)
        self._augmented = image_pipeline(mean, std, self.augment, size)

    @property
    def plain_transform(self) -> v2.Compose | None:
        """From an image to an input, without augmentation; None if the data set holds inputs as they are."""
        return getattr(self, "_plain", None)

    @abstractmethod
    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        """Open the training and the validation data."""

    @abstractmethod
    def open_test(self) -> Dataset[Sample]:
        """Open the test data."""

    def setup(self, stage: str) -> None:
        """Open what a stage needs, once."""
        if stage in ("fit", "validate") and self.train_data is None:
            self.train_data, self.val_data = map(self._place, self.open_training())
        if stage in ("test", "predict") and self.test_data is None:
            self.test_data = self._place(self.open_test())

    def _place(self, data: Dataset[Sample]) -> Dataset[Sample]:
        """Move data in memory to the device that makes their batches."""
        if self.in_memory == "device" and isinstance(data, MemoryDataset) and self.trainer is not None:
            return data.to(self.trainer.strategy.root_device)
        return data

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
            collate_fn=collate if isinstance(data, MemoryDataset) else None,
            pin_memory=torch.cuda.is_available() and self.in_memory != "device",
        )

    def _split_training(
        self,
        labels: Sequence[int],
        augmented: Dataset[Sample],
        plain: Dataset[Sample],
        among: Sequence[int] | None = None,
    ) -> tuple[Dataset[Sample], Dataset[Sample]]:
        """Split one data set, seen with and without augmentation, into training and validation.

        ``labels`` are those of the indices ``among``; of the whole data set if that is None.
        """
        held, kept = split_by_class(labels, self.val_fraction, self.split_seed)
        places = among if among is not None else range(len(labels))
        return self._training_part(augmented, labels, kept, places), self._part(plain, [places[i] for i in held])

    def _training_part(
        self, data: Dataset[Sample], labels: Sequence[int], kept: list[int], places: Sequence[int]
    ) -> Dataset[Sample]:
        """``train_size`` of the training images, ``labelled`` of them with their labels."""
        chosen = self._limit("train_size", self.train_size, labels, kept)
        shown = set(self._limit("labelled", self.labelled, labels, chosen))
        part = self._part(data, [places[i] for i in chosen], True)
        return hide_labels(part, [place for place, index in enumerate(chosen) if index not in shown])

    def _limit(self, name: str, size: int | None, labels: Sequence[int], indices: list[int]) -> list[int]:
        """Return the given number of training images, evenly from each class."""
        if size is None:
            return indices
        if not 0 < size <= len(indices):
            raise ValueError(f"{name} must be between 1 and {len(indices)}, not {size}.")
        share = size / len(indices)
        chosen, _ = split_by_class([labels[i] for i in indices], share, self.split_seed + 1, count=size)
        return [indices[i] for i in chosen]

    def _part(self, data: Dataset[Sample], indices: Sequence[int], augmented: bool = False) -> Dataset[Sample]:
        """Return some of a data set's samples, in memory if ``in_memory`` is set."""
        return self._remember(data, indices, augmented) if self.in_memory else Subset(data, indices)

    def _remember(self, data: Any, indices: Sequence[int], augmented: bool) -> MemoryDataset:
        """Decode some samples of a torchvision data set; its own transforms are left out."""
        assert isinstance(data, VisionDataset)
        raw = copy.copy(data)
        raw.transform = raw.transforms = None
        images = decode(lambda index: raw[index][0], indices, self._fit)
        labels = torch.tensor([int(data.targets[index]) for index in indices])
        names = getattr(data, "classes", ())
        return MemoryDataset(images, labels, self.augment if augmented else [], self._finish, names)


def split_by_class(
    labels: Sequence[int], fraction: float, seed: int, count: int | None = None
) -> tuple[list[int], list[int]]:
    """Split indices in two, each class in the same proportion; ``count`` is the exact size of the first part, if given."""
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


def _transforms(augment: Sequence[nn.Module] | None) -> list[nn.Module]:
    """Transforms of images, in a list."""
    if augment is None:
        return []
    if not isinstance(augment, (list, tuple, nn.Sequential, nn.ModuleList)):
        raise wrong_type("augment", augment, "give a list of transforms: [v2.RandomHorizontalFlip()].")
    for index, transform in enumerate(augment):
        if isinstance(transform, type) or not callable(transform):
            raise wrong_type(f"augment[{index}]", transform, "give a transform, such as v2.RandomHorizontalFlip().")
    return list(augment)


def image_pipeline(
    mean: Sequence[float], std: Sequence[float], before: Sequence[nn.Module] = (), size: int | None = None
) -> v2.Compose:
    """From an image to a normalised float tensor ``[C, H, W]``; ``before`` transforms the integer image."""
    fit = [fit_image(size)] if size is not None else []
    return v2.Compose([v2.ToImage(), *before, *fit, finish_images(mean, std)])


def fit_image(size: int) -> v2.Compose:
    """Resize the shorter side to 8/7 of a size and cut the middle out."""
    return v2.Compose([v2.Resize(round(size * 8 / 7), antialias=True), v2.CenterCrop(size)])


def finish_images(mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """From integer images ``[…, C, H, W]`` to normalised floats.

    Raises:
        TypeError: ``mean`` or ``std`` is no list of numbers.
        ValueError: They hold other than a number a channel, or a number is out of range.
    """
    means, deviations = check_numbers("mean", mean), check_numbers("std", std, above=0)
    if len(means) != len(deviations) or len(means) not in (1, 3):
        raise ValueError(
            f"mean and std must hold a number for each of 3 channels, not {len(means)} and {len(deviations)}."
        )
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(means, deviations)])


def labels_of(targets: Sequence[int] | Tensor) -> list[int]:
    """A data set's labels as plain integers."""
    return [int(target) for target in targets]
