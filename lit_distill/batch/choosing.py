"""Chooses a network's arguments from the entries of a batch by its ``forward``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lit_distill.batch.batch import Arguments, Inputs, is_one_object
from lit_distill.batch.entries import ID_KEYS, INPUT_KEYS, MASK_KEYS, Entries, Roles
from lit_distill.batch.signatures import Signature


def named_inputs(roles: Roles, entry: Any, signature: Signature | None, owner: str) -> Inputs:
    """Return the inputs that the user named: one entry, a list of them, or the result of a function of the batch."""
    if not isinstance(entry, (list, tuple)):
        return spread(roles.take(entry, owner), signature)
    names = signature.names if signature is not None else ()
    named = {name: roles.take(name, owner) for name in entry if name in names}
    positional = tuple(roles.take(name, owner) for name in entry if name not in names)
    return Arguments(positional, named)


def one_or_names(value: Any, signature: Signature | None = None) -> Inputs:
    """Return a mapping as arguments by name if ``forward`` has such, any other value as the only argument."""
    names = signature.names if signature is not None else ()
    by_name = isinstance(value, Mapping) and (signature is None or any(name in value for name in names))
    return value if by_name else one_argument(value)


def by_signature(
    rest: Mapping[Any, Any], signature: Signature | None, refuse: Callable[[str], ValueError], whole: Mapping[Any, Any]
) -> Inputs:
    """Return the entries that a network takes: by the names of its arguments, or the only one that can be its input.

    Of the ``rest`` without another role, or of the ``whole`` for networks that take a batch as it is. ``refuse`` makes the
    error for an ambiguous batch from the reason.
    """
    usual = [name for name in INPUT_KEYS if name in rest]
    if signature is not None and signature.takes_batch:
        return Arguments((dict(whole),), {})
    if signature is None:
        if len(usual) > 1:
            raise refuse(f"{' and '.join(map(repr, usual))} are both usual names of an input")
        return one_or_names(rest[usual[0]]) if usual else {str(name): value for name, value in rest.items()}
    fitting = {name: rest[name] for name in signature.names if name in rest}
    missing = [name for name in signature.required if name not in fitting]
    if not missing and fitting:
        only = next(iter(fitting))
        alone = len(fitting) == 1 and only == signature.names[0] and signature.positional != 0
        return one_argument(fitting[only]) if alone else fitting
    if len(missing) > 1:
        raise refuse(f"it needs {', '.join(map(repr, missing))}, which no entries are called")
    others = [name for name in rest if name not in fitting]
    free = [name for name in usual if name in others]
    if not free:
        free = [n for n in others if n not in (*ID_KEYS, *MASK_KEYS) and not isinstance(rest[n], (str, int, float))]
        free = [n for n in free if not all_texts(rest[n])] or free
    if len(free) != 1:
        needs = f"it needs {missing[0]!r}" if missing else "it needs an input"
        raise refuse(f"{needs}, and {' or '.join(map(repr, free)) or 'no entry'} may be it")
    if missing and missing[0] != signature.names[0]:
        return {**fitting, missing[0]: rest[free[0]]}
    value = rest[free[0]]
    return Arguments((value,), fitting) if fitting or not isinstance(value, Tensor) else value


def one_argument(value: Any) -> Inputs:
    """Return a value as the only argument."""
    return value if isinstance(value, Tensor) or is_one_object(value) else Arguments((value,), {})


def all_texts(value: Any) -> bool:
    """Return True for a list of texts, which is one argument."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, str) for item in value)


def spread(inputs: Any, signature: Signature | None, samples: int | None = None) -> Inputs:
    """Return inputs as arguments: a tuple as several if ``forward`` takes several, and else as one.

    ``samples`` is the batch's size, if the labels show it: a list of this length is one of samples.
    """
    if isinstance(inputs, Arguments):
        return inputs
    if not isinstance(inputs, (tuple, list)) or is_one_object(inputs):
        return one_or_names(inputs, signature)
    most = signature.positional if signature is not None else None
    arguments = all(isinstance(v, (Tensor, Mapping)) or v is None or is_one_object(v) for v in inputs)
    if not arguments or all_texts(inputs) or (most is not None and len(inputs) > most):
        return Arguments((inputs,), {})
    if signature is not None and len(signature.required) < len(inputs) and _holds_samples(inputs, samples):
        return Arguments((inputs,), {})
    return tuple(inputs)


def _holds_samples(inputs: Sequence[Any], samples: int | None) -> bool:
    """Return True if a list holds one tensor per sample, such as images of many sizes, and not one per argument."""
    tensors = [value for value in inputs if isinstance(value, Tensor) and value.dim()]
    if len(tensors) < len(inputs):
        return False
    if samples is not None:
        return len(inputs) == samples and any(len(tensor) != samples for tensor in tensors)
    return all(tensor.dim() == 3 for tensor in tensors) and len({len(tensor) for tensor in tensors}) == 1


def takes_one_object(signature: Signature | None, entries: Entries) -> bool:
    """Return True if a network takes an object as a whole: its only required argument is none of the attributes."""
    if signature is None:
        return True
    needed = signature.required or signature.names[:1]
    named = needed[0] in INPUT_KEYS and any(key in entries for key in INPUT_KEYS)
    return len(needed) == 1 and needed[0] not in entries and not named


def same_call(one: Any, other: Any) -> bool:
    """Return True if two networks get the same objects, by the same names or in the same order."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(one[key] is other[key] for key in one)
    if isinstance(one, Arguments) and isinstance(other, Arguments):
        return same_call(one.positional, other.positional) and same_call(one.named, other.named)
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other
