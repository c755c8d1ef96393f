"""Measures the networks of the table: right answers on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_distill.data import ImageFolder
from lit_distill.models.heads import logits_of


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


def paired_difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return the difference of two accuracies on the same images, and its standard error over the images."""
    difference = one.double() - other.double()
    return float(difference.mean()), float(difference.std(correction=0) / len(difference) ** 0.5)
