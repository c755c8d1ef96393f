"""One rule for what a DataLoader may yield: (inputs, target), a dict, or inputs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

INPUT_KEYS = ("inputs", "input", "image", "images", "pixel_values", "x")
TARGET_KEYS = ("target", "targets", "label", "labels", "y")
MASK_KEYS = ("mask", "attention_mask")
IGNORED_LABEL = -100  # trains nothing, as in PyTorch's cross_entropy


@dataclass(frozen=True)
class Arguments:
    """What a model was called with, where positions and names are mixed: ``model(*positional, **named)``."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]


Inputs = Tensor | Mapping[str, Any] | tuple[Any, ...] | Arguments
Target = Tensor | Mapping[str, Tensor]  # labels by task, where there are several


@dataclass(frozen=True)
class Batch:
    """A batch, taken apart.

    Attributes:
        inputs: A tensor for ``model(x)``, a mapping for ``model(**x)``, a tuple for ``model(*x)``.
        target: The labels, by task where there are several; None where the data have none.
        mask: True at the tokens that count, or None.
        teacher_inputs: The teacher's own inputs, or None where it gets the student's.
    """

    inputs: Inputs
    target: Target | None = None
    mask: Tensor | None = None
    teacher_inputs: Inputs | None = None

    @property
    def for_teacher(self) -> Inputs:
        """What the teacher is called with."""
        return self.inputs if self.teacher_inputs is None else self.teacher_inputs

    @property
    def size(self) -> int:
        """Number of samples in the batch."""
        return len(first_tensor(self.inputs))


@dataclass(frozen=True)
class BatchFormat:
    """How to read batches and outputs whose entries have unusual names.

    Attributes:
        input_key: The student's input in a dict batch.
        target_key: The labels in a dict batch.
        output_key: The logits in a network's dict output.
        teacher_output_key: The logits in the teacher's dict output, where they have another name there.
        teacher_input_key: The teacher's input in a dict batch, where it gets another view, resolution or modality of
            the same sample.
        missing_label: The value of an integer label that is not known (-1, say); such labels train nothing.
    """

    input_key: str | None = None
    target_key: str | None = None
    output_key: str | None = None
    teacher_output_key: str | None = None
    teacher_input_key: str | None = None
    missing_label: int | None = None

    def unpack(self, batch: Any) -> Batch:
        """Take a batch apart, as ``unpack`` does, by these names."""
        data = unpack(batch, self.input_key, self.target_key, self.teacher_input_key)
        if self.missing_label is None or data.target is None:
            return data
        if isinstance(data.target, Tensor):
            return replace(data, target=_ignore(data.target, self.missing_label))
        return replace(data, target={task: _ignore(labels, self.missing_label) for task, labels in data.target.items()})


def _ignore(labels: Tensor, missing: int) -> Tensor:
    """The labels with those that are not known at -100; integers are widened first, as not every type holds that."""
    if labels.is_floating_point():  # where 0 and 1 are probabilities, and mark nothing
        return labels if 0 <= missing <= 1 else labels.masked_fill(labels == missing, IGNORED_LABEL)
    return labels.long().masked_fill(labels == missing, IGNORED_LABEL)


def unpack(
    batch: Any, input_key: str | None = None, target_key: str | None = None, teacher_input_key: str | None = None
) -> Batch:
    """Take a batch apart.

    A tensor is inputs alone; a pair is ``(inputs, target)``; in a dict the input and the target are
    found by their usual names, and where no entry has an input's name, every entry but the target is
    passed to the model by keyword, as Hugging Face models want it.

    Args:
        batch: What the DataLoader yielded.
        input_key: Name of the input in a dict batch; found by its usual names where None.
        target_key: Name of the target in a dict batch; found by its usual names where None.
        teacher_input_key: Name of the teacher's own input in a dict batch; it gets the student's where None.

    Raises:
        ValueError: The batch has another form, or a named key is missing.
    """
    if isinstance(batch, Mapping):
        return _unpack_mapping(batch, input_key, target_key, teacher_input_key)
    if teacher_input_key is not None:
        raise ValueError(
            f"teacher_input_key is {teacher_input_key!r}, and the DataLoader yields a {type(batch).__name__}: only in a "
            "dict batch can the teacher's input be told by its name."
        )
    if isinstance(batch, Tensor):
        return Batch(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return Batch(batch[0])
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return Batch(batch[0], batch[1])
    found = f"{len(batch)} entries" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise ValueError(f"the DataLoader yielded {found}; (inputs, target), a dict, or inputs alone was expected.")


def _unpack_mapping(
    batch: Mapping[str, Any], input_key: str | None, target_key: str | None, teacher_input_key: str | None
) -> Batch:
    for key in (input_key, target_key, teacher_input_key):
        if key is not None and key not in batch:
            raise ValueError(f"no entry {key!r} in the batch; it has {sorted(batch)}.")
    target_name = target_key or next((k for k in TARGET_KEYS if k in batch), None)
    names = [k for k in batch if k != teacher_input_key]
    input_name = input_key or next((k for k in INPUT_KEYS if k in names), None)
    mask_name = next((k for k in MASK_KEYS if k in batch), None)
    rest = {name: batch[name] for name in names if name != target_name}
    inputs: Inputs = batch[input_name] if input_name is not None else rest
    mask = batch[mask_name].bool() if mask_name is not None else None
    target = batch[target_name] if target_name is not None else None
    return Batch(inputs, target, mask, batch[teacher_input_key] if teacher_input_key is not None else None)


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model as its inputs ask: ``model(x)``, ``model(**x)``, ``model(*x)`` or with both."""
    positional, named = positions_and_names(inputs)
    return model(*positional, **named)


def positions_and_names(inputs: Inputs) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments that a model is called with, by position and by name."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Arguments):
        return inputs.positional, inputs.named
    return ((), inputs) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def first_tensor(inputs: Any) -> Tensor:
    """The first tensor of the inputs, whatever their form."""
    found = next(iter(tensors_of(inputs)), None)
    if found is None:
        raise ValueError(f"no tensor in the inputs: {type(inputs).__name__}.")
    return found


def tensors_of(inputs: Any) -> list[Tensor]:
    """Every tensor of the inputs, nested ones too, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, Arguments):
        return tensors_of(inputs.positional) + tensors_of(inputs.named)
    if isinstance(inputs, Mapping):
        return [tensor for value in inputs.values() for tensor in tensors_of(value)]
    if isinstance(inputs, (tuple, list)):
        return [tensor for value in inputs for tensor in tensors_of(value)]
    return []


def move(data: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Move nested tensors to a device, and their floating-point ones to a type."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype if data.is_floating_point() else None)
    if isinstance(data, Mapping):
        return {key: move(value, device, dtype) for key, value in data.items()}
    if isinstance(data, Arguments):
        return Arguments(move(data.positional, device, dtype), move(data.named, device, dtype))
    if isinstance(data, (tuple, list)):
        moved = [move(value, device, dtype) for value in data]
        return type(data)(*moved) if hasattr(data, "_fields") else type(data)(moved)  # a named tuple takes its fields
    return data
