"""The layers of a network: those that are named, those that make its outputs, and the one that fails."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, call_model, tensors_of
from lit_distill.utils.names import first_line, unknown_layer
from lit_distill.utils.restoring import as_in_evaluation

_WITH_WIDTH = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


def chosen_layers(network: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the layers of paths or globs, by path.

    Raises:
        ValueError: A pattern is of no layer.
    """
    known = {name: module for name, module in network.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        names = fnmatch.filter(known, pattern)
        if not names:
            raise ValueError(f"ignore: {unknown_layer(pattern, list(known), f'the {type(network).__name__}')}")
        found |= {name: known[name] for name in names}
    return found


def output_layers(network: nn.Module, inputs: Inputs) -> dict[str, nn.Module]:
    """Return the layers between which and the outputs there is no other with weights of a width, by path.

    The network must be traceable: gradients pass it.
    """
    made: dict[Any, str] = {}
    names: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, _WITH_WIDTH)
    }

    def note(module: nn.Module, given: Any, output: Any) -> None:
        made.update({one.grad_fn: names[module] for one in tensors_of(output) if one.grad_fn is not None})

    handles = [module.register_forward_hook(note) for module in names]
    try:
        with torch.enable_grad():
            outputs = tensors_of(call_model(network, inputs))
    finally:
        for handle in handles:
            handle.remove()
    found = _first_of(made, outputs)
    return {name: network.get_submodule(name) for name in found}


def _first_of(made: dict[Any, str], outputs: Sequence[Tensor]) -> list[str]:
    """Follow the gradients from outputs to the first layers."""
    waiting = [one.grad_fn for one in outputs if one.grad_fn is not None]
    seen, found = set(waiting), list[str]()
    while waiting:
        node = waiting.pop()
        if node in made:
            found.append(made[node])
            continue
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return sorted(set(found))


def output_shapes(network: nn.Module, inputs: Inputs, problem: str) -> list[list[int]]:
    """Run a network in evaluation, and return the shapes of its outputs, or name the innermost module that fails.

    Args:
        network: The network.
        inputs: Its inputs.
        problem: What a failure means, with the module's glob as ``{ignore}``.

    Raises:
        ValueError: It fails.
    """
    running: list[str] = []
    last = [""]  # layer with weights that has run
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
        if isinstance(module, _WITH_WIDTH):
            handles.append(module.register_forward_hook(lambda *_, name=name: last.__setitem__(0, name)))
    try:
        with torch.no_grad(), as_in_evaluation(network):
            return [list(one.shape) for one in tensors_of(call_model(network, inputs))]
    except Exception as error:  # a network fails in any way
        place = running[-1] if running else ""
        kind = type(network.get_submodule(place)).__name__
        where = f"{place!r} ({kind})" if place else f"the {kind}'s own forward"
        after = f", after {last[0]!r}" if last[0] else ""
        problem = problem.format(ignore=_as_glob(place or last[0]))
        raise ValueError(f"{where} fails{after}: {first_line(error).rstrip('.')}. {problem}") from error
    finally:
        for handle in handles:
            handle.remove()


def _as_glob(path: str) -> str:
    """Return the glob of a layer and of those at its place in equal blocks."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", f".{path}.").strip(".")
