"""Measures the networks of the table: right answers on held-out images, and the time of a forward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.data import ImageFolder
from lit_distill.models.heads import logits_of

_ROUNDS, _SECONDS = 30, 3.0  # of forward passes, and at most so long for all networks


def device_here() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def right_answers(
    networks: Mapping[str, nn.Module], data: Mapping[str, Any], part: Literal["test", "val"]
) -> dict[str, Tensor]:
    """Return which images each network tells rightly, ``[N]`` of bool, all networks on the same batches.

    Args:
        networks: By name.
        data: The options of ``ImageFolder``.
        part: Of the folder.
    """
    module = ImageFolder(**{**data, "augment": None})
    module.setup("test" if part == "test" else "fit")
    loader = module.test_dataloader() if part == "test" else module.val_dataloader()
    device = device_here()
    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    for network in networks.values():
        network.eval().to(device)
    with torch.no_grad():
        for images, labels in loader:
            for name, network in networks.items():
                answers = logits_of(network, images.to(device)).argmax(1).cpu()
                found[name].append(answers == labels)
    return {name: torch.cat(parts) for name, parts in found.items()}


def forward_times(networks: Mapping[str, tuple[nn.Module, tuple[int, int]]]) -> dict[str, float]:
    """Return the median time of a forward pass for one image, in milliseconds; the networks take turns.

    Args:
        networks: Each with the height and width of its images.
    """
    device = device_here()
    images = {name: torch.zeros(1, 3, *size, device=device) for name, (_, size) in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    begun = time.perf_counter()
    with torch.no_grad():
        for network, _ in networks.values():
            network.eval().to(device)
        for turn in range(_ROUNDS + 1):
            for name, (network, _) in networks.items():
                start = time.perf_counter()
                network(images[name])
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times[name] += [1000 * (time.perf_counter() - start)] if turn else []  # the first is a warm-up
            if turn and time.perf_counter() - begun > _SECONDS:
                break
    return {name: statistics.median(spent) for name, spent in times.items()}


def paired_difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return the difference of two accuracies on the same images, and its standard error over the images."""
    difference = one.double() - other.double()
    return float(difference.mean()), float(difference.std(correction=0) / len(difference) ** 0.5)
