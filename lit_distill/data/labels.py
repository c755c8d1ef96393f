"""Training data that are labelled only in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.data.memory import MemoryDataset


def hide_labels(data: Dataset[tuple[Any, Any]], hidden: Sequence[int]) -> Dataset[tuple[Any, Any]]:
    """Return the same samples, some of them with the label -100, which trains nothing."""
    if not hidden:
        return data
    if isinstance(data, MemoryDataset):
        data.labels = data.labels.clone()
        data.labels[list(hidden)] = IGNORED_LABEL
        return data
    return _Hiding(data, hidden)


class _Hiding(Dataset[tuple[Any, Any]]):
    def __init__(self, data: Dataset[tuple[Any, Any]], hidden: Sequence[int]) -> None:
        self.dataset = data
        self.hidden = frozenset(hidden)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        inputs, label = self.dataset[index]
        if index not in self.hidden:
            return inputs, label
        return inputs, torch.full_like(label, IGNORED_LABEL) if isinstance(label, Tensor) else IGNORED_LABEL
