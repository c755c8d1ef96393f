"""A batch after it was read, and how a network is called with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lit_distill.batch.layout import Layout
from lit_distill.outputs import OutputKey
from lit_distill.utils.arguments import (
    as_float,
    as_object,
    check_choice,
    check_entry,
    check_flag,
    check_named,
    check_whole,
)

Entry = str | int | Callable[[Any], Any]
IGNORED_LABEL = -100  # trains nothing, as in PyTorch's cross_entropy


@dataclass(frozen=True)
class Arguments:
    """A model's arguments, by position and by name: ``model(*positional, **named)``."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]


# A tensor for ``model(x)``, a mapping for ``model(**x)``, a tuple for ``model(*x)``; any other object for ``model(x)``.
Inputs = Tensor | Mapping[str, Any] | tuple[Any, ...] | Arguments
Target = Tensor | Mapping[str, Tensor]  # labels by task, if there are several


@dataclass(frozen=True)
class Batch:
    """A batch, taken apart.

    Attributes:
        inputs: A tensor for ``model(x)``, a mapping for ``model(**x)``, a tuple for ``model(*x)``.
        target: The labels, by task if there are several; None if the data have none.
        mask: True at the positions that count, or None.
        teacher_inputs: The teacher's own inputs, or None if it gets the student's.
        lengths: Number of positions that count in each sequence, ``[B]``, or None.
        sample_weight: The weight of each sample's labels, ``[B]``, or None.
        mask_is_told: The user named the mask; one found by its name may belong to other positions.
    """

    inputs: Inputs
    target: Target | None = None
    mask: Tensor | None = None
    teacher_inputs: Inputs | None = None
    lengths: Tensor | None = None
    sample_weight: Tensor | None = None
    mask_is_told: bool = False

    @property
    def for_teacher(self) -> Inputs:
        """The teacher's inputs."""
        return self.inputs if self.teacher_inputs is None else self.teacher_inputs

    @property
    def size(self) -> int:
        """Number of samples in the batch; 1 if unknown."""
        inputs = self.inputs
        return (len(inputs) if isinstance(inputs, Tensor) and inputs.dim() else count_samples(inputs)) or 1


@dataclass(frozen=True)
class BatchFormat:
    """The roles of a batch's entries, and how to read the networks' outputs, if names and types do not show it.

    An entry is a key of a dict, an attribute of an object, an index of a tuple, or a function of the batch. The guide's page
    "What is read of a batch" lists what is found automatically.

    Attributes:
        input_key: The student's input, or a list of them: those named as arguments of its ``forward`` are passed by name, the
            others by position.
        target_key: The labels.
        output_key: The logits in the student's output: a key, an index, or a function of the output.
        teacher_output_key: The logits in the teacher's output; if None, ``output_key``.
        teacher_input_key: The teacher's input, or a list of them, if it gets another view of the same sample.
        missing_label: The value of an unknown label (-1, 255 or NaN, say); such labels train nothing. In labels that
            are probabilities, 0 to 1 mark nothing.
        mask_key: True at the positions of the logits that count. ``auto`` takes an entry called ``attention_mask`` or
            ``mask`` that can be nothing else; None takes none.
        lengths_key: The number of positions of each sequence that count, ``[B]``; instead of a mask.
        mask_from_labels: Leave positions whose label is unknown out of every criterion, soft targets and hints too; by
            default they are left out of the labels' losses only.
        weight_key: The weight of each sample's labels, ``[B]``.
        shift_labels: Compare each position's logits with the next position's label, as for causal language models. If None,
            labels that are the inputs themselves are refused before the fit.
        resize_logits: Resize dense logits of both networks to the labels' size, bilinearly.
        class_dim: The classes' dimension in the student's logits; if None, found from the network's modules.
        teacher_class_dim: The classes' dimension in the teacher's logits; if None, ``class_dim``.
        layout: ``channels_first`` or ``channels_last`` for layers of the student whose modules do not show it, by reference or
            glob.
        teacher_layout: ``channels_first`` or ``channels_last`` for layers of the teacher.
        unused: Entries that nothing reads on purpose, so that no warning is given.

    Example:
        >>> from lit_distill.batch.reading import BatchReader
        >>> format_ = BatchFormat(input_key="image", target_key="class")
        >>> batch = BatchReader(format_).read({"image": torch.zeros(2, 3), "class": torch.tensor([1, 0]), "site": [4, 7]})
        >>> batch.inputs.shape, batch.target
        (torch.Size([2, 3]), tensor([1, 0]))
    """

    input_key: Entry | list[str | int] | None = None
    target_key: Entry | None = None
    output_key: OutputKey | None = None
    teacher_output_key: OutputKey | None = None
    teacher_input_key: Entry | list[str | int] | None = None
    missing_label: int | float | None = None
    mask_key: Entry | None = "auto"
    lengths_key: Entry | None = None
    mask_from_labels: bool = False
    weight_key: Entry | None = None
    shift_labels: bool | None = None
    resize_logits: bool = False
    class_dim: int | None = None
    teacher_class_dim: int | None = None
    layout: dict[str, Layout] | None = None
    teacher_layout: dict[str, Layout] | None = None
    unused: list[str | int] | None = None

    def __post_init__(self) -> None:
        check_format(self)

    @property
    def tells_of_batches(self) -> bool:
        """True if more is read of batches than the student's inputs and the labels."""
        named = (self.teacher_input_key, self.lengths_key, self.weight_key, self.told_mask)
        return any(key is not None for key in named) or self.mask_from_labels or self.resize_logits

    @property
    def told_mask(self) -> Entry | None:
        """The mask's entry if the user named it."""
        return self.mask_key if self.mask_key != "auto" else None


def given_format(given: BatchFormat | None) -> BatchFormat:
    """Return the user's batch format, or the default if None; refuse anything else."""
    as_object("batch_format", given, BatchFormat, "BatchFormat(input_key='image', target_key='label')")
    return given if given is not None else BatchFormat()


def check_format(given: BatchFormat) -> None:
    """Refuse options of another kind, and layouts that are none of the choices."""
    for name in ("target_key", "output_key", "teacher_output_key", "mask_key", "lengths_key", "weight_key"):
        check_entry(f"BatchFormat's {name}", getattr(given, name))
    for name in ("input_key", "teacher_input_key", "unused"):
        value = getattr(given, name)
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            check_entry(f"BatchFormat's {name}", entry)
    for name in ("mask_from_labels", "shift_labels", "resize_logits"):
        if getattr(given, name) is not None:
            check_flag(name, getattr(given, name))
    for name in ("class_dim", "teacher_class_dim"):
        if getattr(given, name) is not None:
            check_whole(name, getattr(given, name))
    if given.missing_label is not None:
        as_float("missing_label", given.missing_label)
    for name in ("layout", "teacher_layout"):
        layouts = getattr(given, name)
        if layouts is not None:
            check_named(name, layouts, "{'stage3': 'channels_first'}")
        for layer, layout in (layouts or {}).items():
            check_choice(f"{name}[{layer!r}]", layout, get_args(Layout))


def count_samples(data: Any) -> int | None:
    """Return the number of samples in a batch or in a model's inputs, whose entries are the first level; None if unknown."""
    if isinstance(data, Arguments):
        return count_samples((*data.positional, *data.named.values()))
    if isinstance(data, Mapping):
        return count_samples(tuple(data.values()))
    if not isinstance(data, (list, tuple)) or isinstance(data, PackedSequence):
        return _samples_of(data)
    if data and all(isinstance(one, str) for one in data):
        return len(data)
    return next((rows for one in data if (rows := _samples_of(one)) is not None), None)


def _samples_of(entry: Any) -> int | None:
    if isinstance(entry, Tensor):
        return len(entry) if entry.dim() else None
    if isinstance(entry, PackedSequence):
        return int(entry.batch_sizes[0])
    given = next((getattr(entry, name) for name in ("num_graphs", "batch_size") if hasattr(entry, name)), None)
    if isinstance(given, int):
        return given
    if isinstance(entry, list):
        return len(entry)
    if is_dataclass(entry) and not isinstance(entry, type):
        entry = tuple(getattr(entry, field.name) for field in fields(entry))
    return count_samples(entry) if isinstance(entry, (tuple, Mapping)) else None


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model as its inputs require: ``model(x)``, ``model(**x)``, ``model(*x)`` or with both."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    positional, named = positions_and_names(inputs)
    return model(*positional, **named)


def positions_and_names(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments of a model, by position and by name."""
    if isinstance(inputs, Arguments):
        return inputs.positional, inputs.named
    if isinstance(inputs, Mapping):
        return (), inputs
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) and not is_one_object(inputs) else ((inputs,), {})


def is_one_object(value: Any) -> bool:
    """Return True if a value is one argument although it is a tuple, like a packed sequence."""
    return isinstance(value, PackedSequence)


def tensors_of(inputs: Any, depth: int = 6) -> list[Tensor]:
    """Return every tensor of the inputs and of objects in them, in order, to a depth: objects may refer to each other."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return [tensor for value in _parts_of(inputs) for tensor in tensors_of(value, depth - 1)] if depth else []


_HOLDERS = (Tensor, Arguments, Mapping, tuple, list)


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, Arguments):
        return (value.positional, value.named)
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (tuple, list)):
        return value
    return [entry for entry in attributes_of(value).values() if isinstance(entry, _HOLDERS)]


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the named entries of an object: a dataclass's fields, a graph's tensors; none for plain values and modules."""
    if isinstance(value, (str, bytes, int, float, bool, complex, type, nn.Module)) or callable(value) or value is None:
        return {}
    keys = getattr(value, "keys", None)  # PyTorch Geometric's graphs name what they hold
    if callable(keys) and hasattr(value, "__getitem__"):
        return {str(key): value[key] for key in keys()}
    return {name: entry for name, entry in getattr(value, "__dict__", {}).items() if not name.startswith("_")}


def move(data: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Move nested tensors to a device, and their floating-point ones to a type; objects by their own ``to``."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype if data.is_floating_point() else None)
    if isinstance(data, Mapping):
        return {key: move(value, device, dtype) for key, value in data.items()}
    if isinstance(data, Arguments):
        return Arguments(move(data.positional, device, dtype), move(data.named, device, dtype))
    if isinstance(data, (tuple, list)) and not is_one_object(data):
        moved = [move(value, device, dtype) for value in data]
        return type(data)(*moved) if hasattr(data, "_fields") else type(data)(moved)  # a named tuple takes its fields
    to: Callable[..., Any] | None = getattr(data, "to", None)
    return to(device) if callable(to) and not isinstance(data, nn.Module) else data
