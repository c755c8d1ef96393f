"""One rule for what a DataLoader may yield: (inputs, target), a dict, or inputs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

INPUT_KEYS = ("inputs", "input", "image", "images", "pixel_values", "x")
TARGET_KEYS = ("target", "targets", "label", "labels", "y")
MASK_KEYS = ("mask", "attention_mask")

Inputs = Tensor | Mapping[str, Any] | tuple[Any, ...]


@dataclass(frozen=True)
class Batch:
    """A batch, taken apart.

    Attributes:
        inputs: A tensor for ``model(x)``, a mapping for ``model(**x)``, a tuple for ``model(*x)``.
        target: The labels, or None where the data have none.
        mask: True at the tokens that count, or None.
    """

    inputs: Inputs
    target: Tensor | None = None
    mask: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of samples in the batch."""
        return len(first_tensor(self.inputs))


@dataclass(frozen=True)
class BatchFormat:
    """How to read batches and outputs whose entries have unusual names.

    Attributes:
        input_key: The input in a dict batch.
        target_key: The labels in a dict batch.
        output_key: The logits in a model's dict output.
    """

    input_key: str | None = None
    target_key: str | None = None
    output_key: str | None = None


def unpack(batch: Any, input_key: str | None = None, target_key: str | None = None) -> Batch:
    """Take a batch apart.

    A tensor is inputs alone; a pair is ``(inputs, target)``; in a dict the input and the target are
    found by their usual names, and where no entry has an input's name, every entry but the target is
    passed to the model by keyword, as Hugging Face models want it.

    Args:
        batch: What the DataLoader yielded.
        input_key: Name of the input in a dict batch; found by its usual names where None.
        target_key: Name of the target in a dict batch; found by its usual names where None.

    Raises:
        ValueError: The batch has another form, or a named key is missing.
    """
    if isinstance(batch, Tensor):
        return Batch(batch)
    if isinstance(batch, Mapping):
        return _unpack_mapping(batch, input_key, target_key)
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return Batch(batch[0])
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return Batch(batch[0], batch[1])
    found = f"{len(batch)} entries" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise ValueError(f"the DataLoader yielded {found}; (inputs, target), a dict, or inputs alone was expected.")


def _unpack_mapping(batch: Mapping[str, Any], input_key: str | None, target_key: str | None) -> Batch:
    for key in (input_key, target_key):
        if key is not None and key not in batch:
            raise ValueError(f"no entry {key!r} in the batch; it has {sorted(batch)}.")
    target_name = target_key or next((k for k in TARGET_KEYS if k in batch), None)
    input_name = input_key or next((k for k in INPUT_KEYS if k in batch), None)
    mask_name = next((k for k in MASK_KEYS if k in batch), None)
    rest = {name: value for name, value in batch.items() if name != target_name}
    inputs: Inputs = batch[input_name] if input_name is not None else rest
    mask = batch[mask_name].bool() if mask_name is not None else None
    return Batch(inputs, batch[target_name] if target_name is not None else None, mask)


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model as its inputs ask: ``model(x)``, ``model(**x)`` or ``model(*x)``."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs)


def first_tensor(inputs: Any) -> Tensor:
    """The first tensor of the inputs, whatever their form."""
    if isinstance(inputs, Tensor):
        return inputs
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    found = next((value for value in values if isinstance(value, Tensor)), None)
    if found is None:
        raise ValueError(f"no tensor in the inputs: {type(inputs).__name__}.")
    return found


def tensors_of(inputs: Any) -> list[Tensor]:
    """Every tensor of the inputs, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [value for value in values if isinstance(value, Tensor)]


def move(data: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Move nested tensors to a device, and their floating-point ones to a type."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype if data.is_floating_point() else None)
    if isinstance(data, Mapping):
        return {key: move(value, device, dtype) for key, value in data.items()}
    if isinstance(data, (tuple, list)):
        moved = [move(value, device, dtype) for value in data]
        return type(data)(*moved) if hasattr(data, "_fields") else type(data)(moved)  # a named tuple takes its fields
    return data
