"""The state of every random generator, as plain types that a checkpoint can hold."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lit_distill.utils.distributed import distributed


def collect_rng_state() -> dict[str, Any]:
    """Read the states of Python's, NumPy's, PyTorch's and the GPUs' generators."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Restore every generator to a state that ``collect_rng_state`` read."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])


def collect_rng_states() -> list[dict[str, Any]]:
    """Read the states of every process, by rank; all must call it."""
    mine = collect_rng_state()
    if not distributed():
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def restore_own_rng_state(states: Sequence[dict[str, Any]], rank: int) -> None:
    """Restore this process's generators; if there is no state for its rank, derive one that differs from the others."""
    if rank < len(states):
        restore_rng_state(states[rank])
        return
    first = states[0]
    restore_rng_state(first)
    digest = hashlib.sha256(bytes(first["torch"].tolist()) + rank.to_bytes(4, "big")).digest()
    seed = int.from_bytes(digest[:4], "big")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def own_generators_kept(*owners: object) -> Iterator[None]:
    """Restore the generators that objects hold as attributes on exit: Python's, NumPy's and PyTorch's."""
    states: list[tuple[Callable[[Any], Any], Any]] = []
    for value in (value for owner in owners for value in getattr(owner, "__dict__", {}).values()):
        if isinstance(value, torch.Generator):
            states.append((value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            states.append((value.setstate, value.getstate()))
        elif isinstance(value, np.random.RandomState):
            states.append((value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            states.append((partial(setattr, value.bit_generator, "state"), value.bit_generator.state))
    try:
        yield
    finally:
        for put_back, state in states:
            put_back(state)
