"""Batch augmentation against torchvision, image by image."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lit_distill.data.augment import BatchAugment, crop, flip, hashed, integers, one_by_one, uniform

SEEDS = torch.arange(4000)


def images(count: int = 8, height: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def splitmix(state: int) -> int:
    """The published mixing function, in Python's unbounded integers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("stream", [0, 1, 7])
def test_hash_is_splitmix64(stream: int) -> None:
    seeds = [0, 1, 2**63 - 1, 123456789]
    expected = [splitmix(splitmix(seed) + (stream + 1) * 0x9E3779B97F4A7C15) for seed in seeds]
    assert [value % 2**64 for value in hashed(torch.tensor(seeds), stream).tolist()] == expected


def test_first_output_of_the_published_generator() -> None:
    assert hashed(torch.tensor([0]), 0).item() % 2**64 == 0xE220A8397B1DCDAF


def test_uniform_numbers() -> None:
    drawn = torch.stack([uniform(SEEDS, stream) for stream in range(2)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    torch.testing.assert_close(drawn.mean(1), torch.full((2,), 0.5).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(1), torch.full((2,), 1 / 12).double(), atol=0.005, rtol=0)
    assert abs(torch.corrcoef(drawn)[0, 1]) < 0.05
    assert abs(torch.corrcoef(torch.stack([drawn[0, :-1], drawn[0, 1:]]))[0, 1]) < 0.05


def test_integers_are_uniform() -> None:
    counts = Counter(integers(SEEDS, 0, 9).tolist())
    assert sorted(counts) == list(range(9))
    chi_squared = sum((count - 4000 / 9) ** 2 / (4000 / 9) for count in counts.values())
    assert chi_squared < 26  # 99.9 % for 8 degrees of freedom


def test_flip_and_crop_are_torchvisions() -> None:
    batch = images()
    chosen = torch.tensor([True, False] * 4)
    top, left = torch.arange(8) % 4, torch.arange(8) % 3
    flipped, cut = flip(batch, chosen), crop(batch, top, left, 3, 2)
    for index, image in enumerate(batch):
        assert torch.equal(flipped[index], F.horizontal_flip(image) if chosen[index] else image)
        assert torch.equal(cut[index], F.crop(image, int(top[index]), int(left[index]), 3, 2))


@pytest.mark.parametrize("size", [6, (4, 3), (7, 6)])
@pytest.mark.parametrize("padding", [2, (1, 2), (1, 2, 3, 4), [3]])
def test_random_crop_is_pad_and_crop_at_uniform_offsets(size: int | tuple[int, int], padding: int | list[int]) -> None:
    transform = v2.RandomCrop(size, padding=padding)
    batch = images(1).expand(4000, -1, -1, -1)
    found = BatchAugment([transform])(batch, SEEDS)
    pads = [padding] if isinstance(padding, int) else list(padding)
    padded = F.pad(batch[0], pads)
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    windows = Counter(  # those that lie in the padding look alike
        F.crop(padded, top, left, height, width).numpy().tobytes() for top in range(rows) for left in range(columns)
    )
    counts = Counter(image.numpy().tobytes() for image in found)
    assert counts.keys() == windows.keys()
    expected = {window: 4000 * number / (rows * columns) for window, number in windows.items()}
    chi_squared = sum((counts[window] - expected[window]) ** 2 / expected[window] for window in windows)
    freedom = len(windows) - 1
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_random_flip_flips_its_share(p: float) -> None:
    batch = images(1).expand(4000, -1, -1, -1)
    found = BatchAugment([v2.RandomHorizontalFlip(p)])(batch, SEEDS)
    flipped = (found == batch.flip(-1)).flatten(1).all(1)
    assert torch.equal(~flipped, (found == batch).flatten(1).all(1))
    assert flipped.double().mean().item() == pytest.approx(p, abs=0.03)


def test_the_same_transform_twice_draws_anew() -> None:
    batch = images(1).expand(4000, -1, -1, -1)
    found = BatchAugment([v2.RandomHorizontalFlip(), v2.RandomHorizontalFlip()])(batch, SEEDS)
    assert (found != batch).flatten(1).any(1).double().mean().item() == pytest.approx(0.5, abs=0.03)


class AnyNoise(nn.Module):
    """Reads all three global generators."""

    def forward(self, image: Tensor) -> Tensor:
        return image.float() + torch.rand(1) + 10 * random.random() + 100 * np.random.rand()


TRANSFORMS = [
    [v2.RandomCrop(6, padding=2), v2.RandomHorizontalFlip()],
    [v2.RandomCrop(6, padding=2, fill=7)],
    [v2.RandomCrop(6, padding=2, padding_mode="reflect"), v2.RandomVerticalFlip()],
    [v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)],
    [AnyNoise()],
]


@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_a_sample_depends_on_its_seed_alone_and_no_generator_moves(transforms: list[nn.Module]) -> None:
    augment, batch = BatchAugment(transforms), images(8, 8, 8)
    seeds = hashed(torch.arange(8), 3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    whole = augment(batch, seeds)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.rand(3), random.random(), np.random.rand()
    order = torch.tensor([5, 2, 7])
    assert torch.equal(augment(batch[order], seeds[order]), whole[order])
    assert not torch.equal(augment(batch, seeds + 1), whole)


def test_one_by_one_is_the_transform_itself() -> None:
    batch, transform = images(), v2.RandomInvert(p=1.0)
    assert torch.equal(one_by_one(transform, batch, torch.arange(8)), 255 - batch)


def test_fill_of_a_crop_that_is_not_zero_is_kept() -> None:
    found = BatchAugment([v2.RandomCrop(6, padding=4, fill=7)])(torch.zeros(64, 1, 6, 6, dtype=torch.uint8), SEEDS[:64])
    assert set(found.unique().tolist()) == {0, 7}


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"RandomCrop of \[9, 9\] does not fit into images of \[8, 7\]"):
        BatchAugment([v2.RandomCrop(9, padding=1)])(images(), SEEDS[:8])
    with pytest.raises(ValueError, match="RandomResize gives images of different shapes"):
        BatchAugment([v2.RandomResize(4, 9)])(images(), SEEDS[:8])
