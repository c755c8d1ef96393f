"""Seeds that differ, and generators that are put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lit_distill.recording.seeding import _mixed, batch_seed, restored_generators, sample_seed, seed_generators


@pytest.mark.parametrize(
    ("state", "expected"),
    # The first two outputs of splitmix64 started at 0; its state grows by the golden ratio at each step.
    [(0, 0xE220A8397B1DCDAF), (0x9E3779B97F4A7C15, 0x6E789E6AA1B965F4)],
)
def test_the_hash_is_splitmix64(state: int, expected: int) -> None:
    assert _mixed(state) == expected


def test_every_view_has_its_own_seed() -> None:
    seeds = {sample_seed(seed, (view, index)) for seed in range(3) for view in range(20) for index in range(500)}
    assert len(seeds) == 3 * 20 * 500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_batch_seed_depends_on_members_order_and_purpose() -> None:
    keys = [(0, 1), (0, 2)]
    seeds = {
        batch_seed(0, keys, "a"),
        batch_seed(0, keys[::-1], "a"),
        batch_seed(0, keys, "b"),
        batch_seed(1, keys, "a"),
    }
    assert len(seeds) == 4
    assert batch_seed(0, keys, "a") == batch_seed(0, list(keys), "a")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeding_repeats_the_draws_of_all_three_generators() -> None:
    seed_generators(2**62 + 5)
    first = draws()
    seed_generators(2**62 + 5)
    assert draws() == first
    seed_generators(2**62 + 6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def draw_and_fail() -> None:
    with restored_generators():
        seed_generators(2)
        draws()
        _ = 1 / 0


def test_generators_are_put_back_even_after_an_error() -> None:
    seed_generators(1)
    expected = draws()
    seed_generators(1)
    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert draws() == expected
