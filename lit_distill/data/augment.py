"""torchvision's most common random transforms on a whole batch, with one seed per sample."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2


class BatchAugment:
    """Applies transforms to a batch of images as torchvision would to each one.

    ``RandomCrop`` (padded by zeros or not at all) and ``RandomHorizontalFlip`` work on the whole batch. Any
    other transform is applied sample by sample, with the global random generators seeded for each and put
    back afterwards; it must not keep a state of its own.
    """

    def __init__(self, transforms: Sequence[nn.Module]) -> None:
        self.transforms = list(transforms)

    def __bool__(self) -> bool:
        return bool(self.transforms)

    def __call__(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: ``[B, C, H, W]``.
            seeds: ``[B]``, int64; sample ``i`` depends only on ``images[i]`` and ``seeds[i]``.
        """
        for position, transform in enumerate(self.transforms):
            own = hashed(seeds, position)
            if type(transform) is v2.RandomHorizontalFlip:  # a subclass may do something else
                probability: Any = transform.p
                images = flip(images, uniform(own, 0) < probability)
            elif type(transform) is v2.RandomCrop and _pads_with_zeros(transform):
                images = _crop_as(transform, images, own)
            else:
                images = one_by_one(transform, images, own)
        return images


def hashed(seeds: Tensor, stream: int) -> Tensor:
    """Return independent 64-bit numbers from seeds and a stream number: splitmix64 (Steele et al. 2014), in int64."""
    # int64 wraps, as the algorithm wants.
    return _mix(_mix(seeds) + _signed((stream + 1) * 0x9E3779B97F4A7C15 % 2**64))


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right without a sign: torch's own shift copies it."""
    shifted: Tensor = (z >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def uniform(seeds: Tensor, stream: int) -> Tensor:
    """Return numbers in [0, 1), float64, of the seeds' shape."""
    return _shifted(hashed(seeds, stream), 11).double().mul(2.0**-53)


def integers(seeds: Tensor, stream: int, count: int) -> Tensor:
    """Return integers from 0 to ``count - 1``, of the seeds' shape."""
    return (uniform(seeds, stream) * count).long()


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen (``[B]``, boolean) images ``[B, C, H, W]`` left to right."""
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(-1), images)


def crop(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut a window out of every image ``[B, C, H, W]``, each at its own top row and left column (``[B]``, int64)."""
    # A view of every possible window, of which one per image is copied.
    windows = images.unfold(2, height, 1).unfold(3, width, 1)
    index = torch.arange(len(images), device=images.device)
    cut: Tensor = windows[index, :, top.to(images.device), left.to(images.device)]
    return cut


def _pads_with_zeros(transform: v2.RandomCrop) -> bool:
    return transform.fill == 0 and transform.padding_mode == "constant" and not transform.pad_if_needed


def _crop_as(transform: v2.RandomCrop, images: Tensor, seeds: Tensor) -> Tensor:
    height, width = transform.size
    if transform.padding is not None:
        images = F.pad(images, list(transform.padding))
    rows, columns = images.shape[-2] - height + 1, images.shape[-1] - width + 1
    if rows < 1 or columns < 1:
        raise ValueError(f"RandomCrop of {[height, width]} does not fit into images of {list(images.shape[-2:])}.")
    return crop(images, integers(seeds, 0, rows), integers(seeds, 1, columns), height, width)


def one_by_one(transform: nn.Module, images: Tensor, seeds: Tensor) -> Tensor:
    """Apply any transform to each image, with Python's, NumPy's and torch's generators seeded for it.

    Raises:
        ValueError: It gives images of different shapes.
    """
    changed = []
    with isolate_rng():
        for image, seed in zip(images, hashed(seeds, 0).tolist(), strict=True):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            changed.append(transform(tv_tensors.Image(image)).as_subclass(Tensor))
    if len({image.shape for image in changed}) > 1:
        raise ValueError(f"{type(transform).__name__} gives images of different shapes; a batch needs one.")
    return torch.stack(changed)
