"""Repeatable randomness: every view of a sample is a function of a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

Key = tuple[int, int]  # a view of a sample: number of the view, index of the sample

_MASK = 2**64 - 1


def sample_seed(seed: int, key: Key) -> int:
    """Return a 63-bit seed for one view of one sample, unlike that of any other."""
    return _mixed(_mixed(_mixed(seed) ^ key[0]) ^ key[1]) >> 1


def batch_seed(seed: int, keys: Iterable[Key], purpose: str) -> int:
    """Return a seed for draws per batch (MixUp), from the batch's own samples in their order."""
    text = f"{seed}:{purpose}:" + ",".join(f"{view}.{index}" for view, index in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _mixed(value: int) -> int:
    """Apply the finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input moves every bit of the output."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, and the device's if given."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def restored_generators(device: torch.device | None = None) -> Iterator[None]:
    """Restore the global generators afterwards, so that nothing else notices the seeding."""
    on_device = [device] if device is not None and device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=on_device):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
