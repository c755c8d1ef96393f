"""Small data sets kept in memory: every image decoded once, augmented a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from torchvision.transforms.v2 import functional as F

from lit_distill.data.augment import BatchAugment
from lit_distill.recording.marks import Marks, marks_of_rows

MemoryBatch = tuple[Tensor, Tensor]
_MOST_CORES = 8
_LARGEST_SHARE = 0.5  # of the memory that is free


class MemoryDataset(Dataset[MemoryBatch]):
    """Decoded images and their labels; a whole batch is gathered, augmented and converted at once.

    The augmentation of a sample is a pure function of its seed, so that a recording can draw it again.

    Args:
        images: ``[N, C, H, W]``, integers of a pixel's range, or floats that are taken as they are.
        labels: ``[N]``.
        augment: Transforms of the images before they become floats.
        finish: From a batch of augmented images to the network's inputs: resizing, scaling, normalisation.
        classes: Their names in the order of the labels, if they have some.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        augment: Sequence[nn.Module] = (),
        finish: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008 (it has no state)
        classes: Sequence[str] = (),
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images do not match {len(labels)} labels.")
        self.images, self.labels = images, labels
        self.augment = BatchAugment(augment)
        self.finish = finish
        self.classes = tuple(classes)
        self._marks: tuple[Any, Marks] | None = None  # of what, and the marks

    def to(self, device: torch.device) -> MemoryDataset:
        """Move the images and the labels; batches are then made on that device.

        Raises:
            MemoryError: They need more than half of a GPU's free memory.
        """
        if device.type == "cuda":
            refuse_too_large(self.images.nbytes, len(self), torch.cuda.mem_get_info(device)[0])
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> MemoryBatch:
        """Return a collated batch, with seeds of torch's global generator if there is augmentation."""
        seeds = torch.randint(2**63 - 1, (len(indices),)).tolist() if self.augment else [0] * len(indices)
        return self.get_seeded(indices, seeds)

    def get_seeded(self, indices: Sequence[int], seeds: Sequence[int]) -> MemoryBatch:
        """Return inputs ``[B, C, H, W]`` and labels ``[B]``; only ``seeds[i]``, in [0, 2^63), augments sample i."""
        chosen = torch.as_tensor(indices, dtype=torch.int64).to(self.images.device)
        images = self.augment(self.images[chosen], torch.as_tensor(seeds, dtype=torch.int64))
        return self.finish(images), self.labels[chosen]

    def get_marks(self, indices: Sequence[int]) -> Marks:
        """Return 32 bits of each stored image and its label, by which a recording notices changed data.

        They are computed once, and again if the images were changed in place.
        """
        stored = [(id(part), part._version) for part in (self.images, self.labels)]
        if self._marks is None or self._marks[0] != stored:
            self._marks = stored, marks_of_rows((self.images, self.labels), len(self))
        return self._marks[1][np.asarray(indices, dtype=np.int64)]


def collate(batch: Any) -> Any:
    """Collate a list of single samples; a batch that the data set has collated is returned as it is."""
    return default_collate(batch) if isinstance(batch, list) else batch


def decode(read: Callable[[int], Any], indices: Sequence[int], fit: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Decode images, each brought to one size by ``fit``, into a tensor ``[N, C, H, W]`` of their own type, in a few threads.

    Raises:
        ValueError: The images differ in shape, or there are none.
        MemoryError: They need more than half of the free memory.
    """
    if not indices:
        raise ValueError("there is no image to keep in memory.")

    def load(index: int) -> Tensor:
        image = F.to_image(read(index)).as_subclass(Tensor)
        return fit(image) if fit is not None else image

    first = load(indices[0])
    needed = first.numel() * first.element_size() * len(indices)
    refuse_too_large(needed, len(indices), free_memory())
    images = first.new_empty(len(indices), *first.shape)

    def place(position: int) -> None:
        image = load(indices[position])
        if image.shape != first.shape:
            raise ValueError(
                f"images kept in memory must have one shape: image {indices[position]} is {list(image.shape)} and image "
                f"{indices[0]} is {list(first.shape)} (channels, height, width). Set image_size, or in_memory=False."
            )
        images[position] = image

    with ThreadPoolExecutor(usable_cores()) as threads:
        for _ in threads.map(place, range(len(indices))):  # raises what a thread raised
            pass
    rank_zero_info(f"Keeping {len(indices):,} images in memory: {needed / 2**20:,.0f} MiB.")
    return images


def refuse_too_large(needed: int, count: int, free: int | None) -> None:
    """Refuse images that need more than half of the free memory; pass if the system does not report it.

    Raises:
        MemoryError: They do.
    """
    if free is not None and needed > _LARGEST_SHARE * free:
        raise MemoryError(
            f"{count:,} decoded images need {needed / 2**30:.1f} GiB, more than half of the {free / 2**30:.1f} GiB of "
            "memory that are free. Set in_memory=False, a smaller train_size or image_size."
        )


def free_memory() -> int | None:
    """Return the bytes of memory available to programs on Linux; None elsewhere."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def usable_cores() -> int:
    """Return the number of cores that this process may use, up to 8: more loaders seldom load faster."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_CORES)
