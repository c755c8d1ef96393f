"""Inputs of as many samples as a measurement asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import Arguments, Inputs, is_one_object, move


def some_samples(inputs: Inputs, size: int, count: int, device: torch.device) -> Inputs:
    """Return inputs of ``count`` samples, which repeat those of a batch where it has fewer.

    Args:
        inputs: Of a batch.
        size: Its number of samples; tensors of another length are no samples, and stay whole.
        count: 1 or more.
        device: Where the tensors go.

    Raises:
        ValueError: The inputs hold an object whose samples cannot be chosen, such as a packed sequence or a graph.

    Example:
        >>> some_samples({"x": torch.tensor([[1], [2]])}, 2, 3, torch.device("cpu"))["x"].flatten().tolist()
        [1, 2, 1]
    """
    chosen: Inputs = _chosen(inputs, size, torch.arange(count) % size, device)
    return chosen


def one_sample(inputs: Inputs, size: int, device: torch.device) -> Inputs:
    """Return the first sample of a batch's inputs, or all of them if they hold an object whose samples cannot be chosen."""
    try:
        return some_samples(inputs, size, 1, device)
    except ValueError:
        return move(inputs, device)  # type: ignore[no-any-return]


def _chosen(value: Any, size: int, places: Tensor, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        whole = value.to(device)
        return whole[places.to(device)] if value.dim() and len(value) == size else whole
    if isinstance(value, Mapping):
        return {key: _chosen(inner, size, places, device) for key, inner in value.items()}
    if isinstance(value, Arguments):
        return Arguments(*(_chosen(part, size, places, device) for part in (value.positional, value.named)))
    if isinstance(value, (tuple, list)) and not is_one_object(value):
        inner = [_chosen(one, size, places, device) for one in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"samples cannot be chosen from a {type(value).__name__}.")
