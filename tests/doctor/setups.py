"""Small set-ups to examine: networks, data whose labels the teacher knows, and modules of any criteria."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Criterion, DistillationModule, HardTarget
from lit_distill.teachers import Teacher

WIDTH, CLASSES, TOKENS = 12, 5, 6


class Net(nn.Module):
    """Vectors [B, 12], or tokens [B, 6, 12], to logits, with a normalisation and dropout as real networks have."""

    def __init__(self, hidden: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.stage = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(x.flatten(0, -2)).reshape(x.shape)
        x = self.stage(torch.relu(x))
        logits: Tensor = 3 * self.head(self.dropout(torch.relu(x)))
        return logits


class TokenNet(Net):
    """The same for batches of a mapping, whose padding the attention mask names."""

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(tokens)


def vectors(teacher: nn.Module, size: int = 64, batch: int = 16) -> DataLoader[Any]:
    """Batches (inputs, labels), the labels being the teacher's."""
    x = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = teacher.eval()(x).argmax(-1)
    return DataLoader(TensorDataset(x, labels), batch, shuffle=True)


def tokens(teacher: nn.Module, size: int = 64, batch: int = 16) -> DataLoader[Any]:
    """Batches of a mapping with tokens, mask and labels for every token."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, TOKENS, WIDTH, generator=generator)
    mask = torch.arange(TOKENS) < torch.randint(2, TOKENS + 1, (size, 1), generator=generator)
    with torch.no_grad():
        labels = teacher.eval()(x, mask).argmax(-1)
    rows = [
        {"tokens": row, "attention_mask": valid.long(), "labels": label}
        for row, valid, label in zip(x, mask, labels, strict=True)
    ]
    return DataLoader(rows, batch, shuffle=True)  # type: ignore[arg-type]


def with_criterion(
    criterion: Criterion,
    weight: float = 1.0,
    kind: type[DistillationModule] = DistillationModule,
    sequences: bool = False,
    teacher: nn.Module | Teacher | None = None,
) -> tuple[DistillationModule, DataLoader[Any]]:
    """A module with hard targets and one more criterion, and its data."""
    torch.manual_seed(0)
    make = TokenNet if sequences else Net
    network = teacher if isinstance(teacher, nn.Module) else make(16)
    student = make(8)
    given = network if teacher is None else teacher
    known = given.model if isinstance(given, Teacher) else network
    data = (tokens if sequences else vectors)(known)
    if isinstance(given, Teacher):
        known.train()  # as a network is when it is made
    module = kind(student, given, {"hard": HardTarget(), "term": criterion}, {"hard": 1.0, "term": weight})
    return module, data
