"""Views that can be had again, bit for bit, in any order, batch and process."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, default_collate
from torchvision.transforms import v2

from lit_distill.recording import Plan
from lit_distill.recording.replay import FixedBatches, ReplayBatches, ReplayData, ReplayLoader

COUNT = 12


class Noisy(Dataset[Any]):
    """Draws from all three global generators, and from torchvision's transforms."""

    def __init__(self) -> None:
        self.images = torch.arange(COUNT * 3 * 8 * 8, dtype=torch.float32).reshape(COUNT, 3, 8, 8)
        self.transform = v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip(), v2.RandomErasing(p=0.5)])

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
        return self.transform(self.images[index]) + noise, index


def replay(seed: int = 0) -> ReplayData:
    return ReplayData(Noisy(), default_collate, seed)


def test_a_view_is_the_same_alone_in_a_batch_and_in_any_order() -> None:
    data = replay()
    keys = [(view, index) for view in range(3) for index in range(COUNT)]
    alone = torch.stack([data[key][0] for key in keys])
    together, labels = data.__getitems__(keys)
    backwards, _ = data.__getitems__(keys[::-1])
    assert torch.equal(together, alone)
    assert torch.equal(backwards.flip(0), alone)
    assert labels.tolist() == [index for _, index in keys]


def test_views_samples_and_seeds_differ() -> None:
    images = [replay(seed)[view, index][0] for seed in (0, 1) for view in (0, 1) for index in (0, 0, 1)]
    assert torch.equal(images[0], images[1])
    assert len({image.sum().item() for image in images}) == 8


def test_nothing_else_notices_the_seeding() -> None:
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    replay().__getitems__([(0, 0), (1, 1)])
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_sees_its_view_whatever_the_workers_and_the_order(workers: int) -> None:
    torch.manual_seed(workers)
    data, epoch = replay(), [0]
    like = DataLoader(Noisy(), batch_size=5, shuffle=True, num_workers=workers)
    loader = ReplayLoader(data, ReplayBatches(like.batch_sampler, 3, lambda: epoch[0]), like)
    orders = []
    for epoch[0] in range(4):
        seen = []
        for images, labels in loader:
            keys = loader.delivered.popleft().keys
            assert labels.tolist() == [index for _, index in keys]
            assert {view for view, _ in keys} == {epoch[0] % 3}
            assert all(torch.equal(image, data[key][0]) for image, key in zip(images, keys, strict=True))
            seen += [index for _, index in keys]
        assert sorted(seen) == list(range(COUNT))
        assert not loader.delivered
        orders.append(seen)
    assert len({tuple(order) for order in orders}) == 4


def test_an_epoch_that_is_left_early_leaves_nothing_behind() -> None:
    like = DataLoader(Noisy(), batch_size=4)
    loader = ReplayLoader(replay(), ReplayBatches(like.batch_sampler, 1, lambda: 0), like)
    next(iter(loader))
    for _, labels in loader:
        assert [index for _, index in loader.delivered.popleft().keys] == labels.tolist()


def test_the_loaders_order_is_the_one_it_would_have_drawn() -> None:
    like = DataLoader(Noisy(), batch_sampler=BatchSampler(RandomSampler(range(COUNT)), 4, drop_last=False))
    torch.manual_seed(3)
    expected = [batch[1].tolist() for batch in like]
    torch.manual_seed(3)
    # Augmentation draws from the same generator in the main process; a replaying loader leaves it alone.
    plain = DataLoader(range(COUNT), batch_sampler=like.batch_sampler)
    torch.manual_seed(3)
    alone = [batch.tolist() for batch in plain]
    torch.manual_seed(3)
    loader = ReplayLoader(replay(), ReplayBatches(like.batch_sampler, 1, lambda: 0), like)
    assert [batch[1].tolist() for batch in loader] == alone
    assert sorted(chain.from_iterable(expected)) == sorted(chain.from_iterable(alone))


def mix(samples: list[Any]) -> Any:
    return v2.MixUp(num_classes=COUNT)(*default_collate(samples))


def test_what_the_collate_function_draws_is_repeated() -> None:
    data = ReplayData(Noisy(), mix, 0)
    keys = [(0, index) for index in range(4)]
    (first, soft), (again, soft_again) = data.__getitems__(keys), data.__getitems__(keys)
    assert torch.equal(first, again)
    assert torch.equal(soft, soft_again)
    other, _ = data.__getitems__([(1, index) for index in range(4)])
    assert not torch.equal(first, other)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
def test_fixed_batches_keep_their_members_and_change_their_order(drop_last: bool, world_size: int) -> None:
    plan = Plan(14, 2, 4, fixed=True, drop_last=drop_last)
    units = 3 if drop_last else 4
    epochs: list[list[tuple[Any, ...]]] = []
    for epoch in range(8):
        ranks = [
            list(FixedBatches(plan, -(-units // world_size), lambda: epoch, rank, world_size))  # noqa: B023
            for rank in range(world_size)
        ]
        epochs.append([tuple(batch) for batches in zip(*ranks, strict=True) for batch in batches])
    whole = [{tuple(plan.keys(view * plan.units_per_view + unit)) for unit in range(units)} for view in range(2)]
    for epoch, batches in enumerate(epochs):
        assert set(batches) == whole[epoch % 2]
    assert len({tuple(batches) for batches in epochs[::2]}) > 1
    assert epochs[0] == [tuple(b) for b in FixedBatches(plan, len(epochs[0]), lambda: 0)]  # all ranks together


class Batching(Dataset[Any]):
    """Augments in batch, as a function of each sample's seed."""

    def __len__(self) -> int:
        return COUNT

    def get_seeded(self, indices: list[int], seeds: list[int]) -> Any:
        return torch.tensor([float(seed % 1000) for seed in seeds]), torch.tensor(indices)


def test_data_that_augment_in_batch_get_a_seed_a_sample() -> None:
    data = ReplayData(Batching(), default_collate, 0)
    together, labels = data.__getitems__([(0, 3), (1, 3), (0, 5)])
    assert labels.tolist() == [3, 3, 5]
    assert [float(data[key][0]) for key in [(0, 3), (1, 3), (0, 5)]] == together.tolist()
    assert len(set(together.tolist())) == 3
