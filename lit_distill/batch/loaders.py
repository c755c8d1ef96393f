"""Refuses training data that no loop can read: wrong loaders, and samples that do not fit into one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, IterableDataset

from lit_distill.utils.arguments import described

# Errors of collate functions for samples that do not fit together, and remedies.
_UNCOLLATED = {
    "stack expects": "resize or pad them to one shape, or give the DataLoader a collate_fn that does.",
    "should be of equal size": "pad their lists to one length, or give the DataLoader a collate_fn that does.",
    "batch must contain": "have the data set return tensors, arrays or numbers, or give the DataLoader a collate_fn that makes "
    "tensors.",
}


def refuse_no_loader(loader: Any) -> None:
    """Refuse training data that yield no batches: empty lists, data sets without a loader, what is not iterable."""
    remedy = "give a DataLoader, or a list or a dict of them."
    if isinstance(loader, (list, tuple, dict)) and not loader:
        raise ValueError(f"the training data are an empty {type(loader).__name__}; {remedy}")
    readable = isinstance(loader, Iterable) or hasattr(loader, "__getitem__")
    if isinstance(loader, (str, bytes, Tensor, type)) or not readable:
        raise TypeError(f"the training data are {described(loader)}, which yields no batches; {remedy}")
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset) and _yields_samples(loader):
        raise ValueError(
            f"the training data are a data set ({type(loader).__name__}), whose samples are not put into batches; give "
            "DataLoader(data, batch_size=…)."
        )


def _yields_samples(data: Any) -> bool:
    """Return True if a data set's first entry holds a single number, such as a label: then it is a sample, and no batch."""
    try:
        leaves = tree_leaves(data[0])
    except Exception:  # whatever it is, reading the data raises it again
        return False
    return any(isinstance(one, (int, float)) or (isinstance(one, Tensor) and not one.dim()) for one in leaves)


@contextmanager
def collating(data: Any) -> Iterator[None]:
    """Explain a failure to collate samples."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        remedy = next((words for said, words in _UNCOLLATED.items() if said in str(error)), None)
        if remedy is None:
            raise
        raise ValueError(
            f"samples of the training data set ({type(data).__name__}) cannot be put into one batch ({error}): {remedy}"
        ) from error
