"""The random generators' states, kept and put back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_distill.utils.rng import collect_rng_state, restore_rng_state


def draw() -> list[float]:
    normal = [random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))]
    return [*normal, random.random(), float(np.random.rand()), float(torch.rand(()))]


@pytest.mark.parametrize("drawn", [0, 1, 7])
def test_round_trip_through_a_safe_file(tmp_path: Path, drawn: int) -> None:
    for _ in range(drawn):  # an odd number of normal draws leaves one in Python's and NumPy's store
        draw()
    torch.save(collect_rng_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert draw() != expected[0]
    restore_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected


def test_reading_changes_nothing() -> None:
    restore_rng_state(collect_rng_state())
    state = collect_rng_state()
    expected = draw()
    restore_rng_state(state)
    collect_rng_state()
    assert draw() == expected
