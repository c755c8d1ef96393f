"""Checks that a checkpoint's tensors can become a network's weights: kinds, shapes, and finite values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_distill.models.finding import COUNTER, same_tensors, shape_of

_KINDS = {"quantised": "is_quantized", "sparse": "is_sparse", "nested": "is_nested"}


def refuse_unfillable(model: nn.Module) -> None:
    """Refuse a model on the ``meta`` device, which has no memory for weights."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    empty = next((name for name, tensor in tensors.items() if tensor.is_meta), None)
    if empty is not None:
        raise ValueError(
            f"the {type(model).__name__} has no memory to load weights into ({empty} is on the device 'meta'); make it outside "
            "of torch.device('meta')."
        )


def tied_names(model: nn.Module) -> list[list[str]]:
    """Return the names of each weight that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def optional_names(model: nn.Module, wanted: Mapping[str, Any]) -> set[str]:
    """Return the names that a checkpoint may lack: counters that old ones lack, and all but one name of a tied weight."""
    return {name for name in wanted if name.endswith(COUNTER)} | {name for tied in tied_names(model) for name in tied}


def add_tied(model: nn.Module, found: dict[str, Any]) -> None:
    """Add the names that a checkpoint leaves out because the model ties them to others that it has."""
    for tied in tied_names(model):
        held = next((found[name] for name in tied if name in found), None)
        for name in tied if held is not None else ():
            found.setdefault(name, held)


def mismatches(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what keeps ``found`` from loading strictly, in words."""
    missing = [f"missing: {k}" for k in wanted if k not in found and not k.endswith(COUNTER)]
    unexpected = [f"unexpected: {k}" for k in found if k not in wanted]
    shapes = []
    for name, mine in wanted.items():
        shape, theirs = shape_of(mine), shape_of(found.get(name))
        if shape is not None and theirs is not None and shape != theirs:
            shapes.append(f"shape of {name}: {theirs} in the file, {shape} in the model")
    return shapes + missing + unexpected


def unsuitable(model: nn.Module, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what a model's weights must not be filled with, in words: other kinds of numbers, NaN, infinity."""
    problems = []
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, mine in wanted.items():
        theirs = found.get(name)
        if isinstance(mine, Tensor) and theirs is not None:
            problem = _kind_problem(name, mine, theirs) or _value_problem(mine, theirs, name in parameters)
            problems += [f"{name} {problem}"] if problem else []
    return problems + _torn_ties(model, found)


def _kind_problem(name: str, mine: Tensor, theirs: Any) -> str:
    if not isinstance(theirs, Tensor):
        return f"is a {type(theirs).__name__} in the file, and a tensor in the model"
    if is_lazy(theirs):
        return "was saved before it had a shape (of a lazy layer)"
    if type(theirs) not in (Tensor, nn.Parameter):
        return f"is a {type(theirs).__name__} in the file, and a plain tensor in the model"
    flags = [word for word, flag in _KINDS.items() if getattr(theirs, flag) != getattr(mine, flag)]
    if flags or theirs.is_meta or theirs.layout != mine.layout:
        return f"is {flags[0] if flags else 'without values'} in one of file and model, and not in the other"
    counts = name.endswith(COUNTER) and not theirs.is_complex()  # averages of checkpoints make floats of these
    same = counts or _kind(mine) == _kind(theirs)
    return "" if same else f"holds {theirs.dtype} in the file, and {mine.dtype} in the model"


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "whole"


def _value_problem(mine: Tensor, theirs: Tensor, parameter: bool) -> str:
    if theirs.layout != torch.strided:
        return ""
    if theirs.is_quantized or not (mine.is_floating_point() or mine.is_complex()):
        return _rounded(mine, theirs)
    finite = theirs.to(mine.dtype).isfinite()
    if bool(finite.all()):
        return ""
    own = None if parameter or is_lazy(mine) else mine.detach().cpu()
    if own is not None and torch.equal(own[~finite], theirs.to(mine.dtype)[~finite]):
        return ""  # a mask of -inf, which a new model holds too
    given = theirs.to(torch.complex128 if theirs.is_complex() else torch.float64)
    if bool(given.isfinite().all()):
        return f"is beyond the range of the model's {mine.dtype}"
    return f"holds {'NaN' if bool(given.isnan().any()) else 'infinity'}"


def _rounded(mine: Tensor, theirs: Tensor) -> str:
    if mine.dtype == theirs.dtype or theirs.is_quantized:
        return ""
    same = torch.equal(theirs.to(mine.dtype).to(theirs.dtype), theirs)
    return "" if same else f"holds values that the model's {mine.dtype} cannot"


def _torn_ties(model: nn.Module, found: Mapping[str, Any]) -> list[str]:
    """Return the names of one and the same weight for which the file has different values."""
    problems = []
    for first, *others in tied_names(model):
        for other in others:
            if first in found and other in found and not same_tensors({"": found[first]}, {"": found[other]}):
                problems.append(f"{first} and {other} are one weight in the model, and differ in the file")
    return problems
