"""Checks of networks and other objects."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_distill.utils.arguments.described import article, wrong_type
from lit_distill.utils.names import listed


def check_object(name: str, value: Any, kind: type | tuple[type, ...], remedy: str) -> None:
    """Refuse a value that is no object of a kind; if it is a class of that kind, ask for an object."""
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        raise wrong_type(name, value, f"give an object, {value.__name__}({_dots(value)}), not the class.")
    raise wrong_type(name, value, remedy)


def _dots(kind: type) -> str:
    """Return "…" if a call of the class needs arguments, for an example."""
    try:
        given = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return "…"
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return "…" if any(one.default is one.empty and one.kind not in fixed for one in given) else ""


def check_network(name: str, value: Any, also: tuple[type, ...] = ()) -> None:
    """Refuse a value that is no network, nor of the classes in ``also``, and say how to make one from what was given."""
    if not isinstance(value, (nn.Module, *also)):
        check_object(name, value, (nn.Module, *also), _network_remedy(value))


def check_sizes(owner: str, network: nn.Module) -> None:
    """Refuse a network with lazy layers that have not seen an input yet: they have no weights."""
    lazy = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"the {owner} {type(network).__name__} has lazy layers without weights: {listed(lazy, 3)}. Call it "
            "once with an example first, network(example), or give the layers their sizes."
        )


def _network_remedy(value: Any) -> str:
    if isinstance(value, Mapping):
        what = "it holds weights, and the network is needed" if _holds_tensors(value.values()) else "give a network"
        return f"{what}: lit_distill.load(network, 'weights.ckpt') reads weights into one."
    if isinstance(value, (list, tuple)):
        return "give a network; lit_distill.Ensemble makes one of several."
    if hasattr(value, "graph_module") and hasattr(value, "module"):  # torch.export's program
        return "give program.module()."
    if isinstance(value, type) or not (inspect.isroutine(value) or isinstance(value, functools.partial)):
        return "give a network: lit_distill.load(network, 'weights.ckpt') reads its weights."
    return "give a network, a torch.nn.Module: what the function makes, if it makes one."


def _holds_tensors(values: Iterable[Any]) -> bool:
    return any(isinstance(value, (Tensor, Mapping)) for value in values)


def as_object(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse an optional argument that is neither None nor an object of a kind."""
    if value is not None:
        check_object(name, value, kind, f"give {article(kind.__name__)} {kind.__name__}: {example}.")
