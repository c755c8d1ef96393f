"""Tiny students, and data that they can learn, for the tests of exports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def net(width: int = 4, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def images(count: int = 48) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    return torch.randn(count, 2, 6, 6) + labels.view(-1, 1, 1, 1), labels


def loader(count: int = 48) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*images(count)), batch_size=8)


def trained() -> nn.Sequential:
    """Return a network that tells the three classes apart."""
    network = net()
    optimizer = torch.optim.AdamW(network.parameters(), 0.02)
    inputs, labels = images(96)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network.eval()
