"""Tiny students for the tests of compression."""

from __future__ import annotations

from torch import Tensor, nn


class Flat(nn.Module):
    """A student without BatchNorm, for which nothing slow is prepared."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))  # type: ignore[no-any-return]
