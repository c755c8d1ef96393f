"""Joins calls of a model's parts, made one after another, to one call of the model."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import call_model, tensors_of
from lit_distill.capture.call import Call
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.restoring import as_in_evaluation

_MOST_NODES = 2000  # of an autograd graph, between one part's output and the next part's input


def join_parts(parts: list[Call], known: tuple[str, ...] = ()) -> Call:
    """Return one call, with the first part's inputs and the last part's output; refuse parts that form no chain.

    ``known`` parts form a chain in this order; without gradients, a pooling between them hides that.
    """
    names = [part.name for part in parts]
    made = [part for part in parts if part.layers is not None]
    again = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if again:
        raise ValueError(_refused(names, f"{again[0]!r} ran {names.count(again[0])} times"))
    if len(made) < len(parts):
        raise ValueError(_refused(names, "one of them failed"))
    seen = tensors_of(parts[0].inputs)
    for before, after in pairwise(parts) if tuple(names) != known else ():
        taken, given = tensors_of(after.inputs), tensors_of(before.raw)
        seen += given
        loose = [tensor for tensor in taken if not _comes_from(tensor, seen)]
        if loose or not any(_comes_from(tensor, given) for tensor in taken):
            raise ValueError(_refused(names, f"{after.name!r} does not take only the output of {before.name!r}"))
    first, last = parts[0], parts[-1]
    layers: dict[str, list[Any]] = {}
    for part in parts:
        for key, calls in (part.layers or {}).items():
            layers.setdefault(key, []).extend(calls)
    with_grad = any(part.with_grad for part in parts)
    return Call(
        first.inputs, with_grad, first.watch, parts=tuple(names), raw=last.raw, layers=layers, changed=first.changed
    )


def check_parts(model: nn.Module, call: Call) -> None:
    """Refuse a joined call whose output has not the shape of the whole model's.

    ``model`` is a copy, as random states and buffers change.
    """
    try:
        with as_in_evaluation(model), torch.no_grad():
            whole = [tensor.shape for tensor in tensors_of(call_model(model, call.inputs))]
    except NotImplementedError:  # without a forward, such as a ModuleDict: there is no whole to compare with
        inside = tuple(f"{part}." for part in call.parts)
        left = [name for name, _ in model.named_parameters() if not name.startswith(inside)]
        if left:
            raise ValueError(_refused(list(call.parts), f"{left[0]!r} is in none of them")) from None
        return
    except Exception as error:
        reason = f"the model called whole with the first part's inputs fails ({type(error).__name__}: {error})"
        raise ValueError(_refused(list(call.parts), reason)) from error
    given = next((tensor.shape for tensor in tensors_of(call.raw)), None)
    if given not in whole:
        shapes = ", ".join(str(list(shape)) for shape in whole) or "no tensor"
        found = list(given) if given is not None else "no tensor"
        raise ValueError(_refused(list(call.parts), f"the last of them gives {found}, and the whole model {shapes}"))


def _refused(names: list[str], why: str) -> str:
    called = ", ".join(dict.fromkeys(names))
    return f"it calls parts of the student and not the student itself ({called}), and they cannot be read as one call: {why}."


def _comes_from(tensor: Tensor, sources: list[Tensor]) -> bool:
    """Return True if a tensor is one of the sources, a view of one, or computed from one with gradients on."""
    if any(tensor is source or _same_memory(tensor, source) for source in sources):
        return True
    nodes = {source.grad_fn for source in sources if source.grad_fn is not None}
    return any(node in nodes for node in islice(nodes_behind([tensor]), _MOST_NODES - 1))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0
    except (NotImplementedError, RuntimeError):  # a sparse tensor, or a wrapper class, has no storage
        return False
