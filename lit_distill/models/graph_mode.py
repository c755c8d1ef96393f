"""The mode, training or evaluation, of a graph of torch.export, where it is an argument of operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

_FLAGS = {"dropout": 2, "dropout_": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5}
_ATTENTION, _PROBABILITY = "scaled_dot_product_attention", "dropout_p"
Norms = Mapping[str, tuple[float, float]]


def set_graph_mode(graph: fx.GraphModule, training: bool, statistics: bool) -> None:
    """Switch a graph's operators between training and evaluation.

    torchao's own switch replaces the operators by new ones, with PyTorch's usual epsilon, momentum and share of dropout in
    place of the network's. This one changes nothing but the mode.

    Args:
        graph: A program of ``torch.export``, exported in training mode.
        training: Drop out.
        statistics: BatchNorm normalises by the batch, and moves its running statistics.
    """
    for node in _calls(graph):
        name = operator(node)
        if name == "batch_norm" and node.args[3] is not None:
            node.update_arg(5, statistics)
        elif name in _FLAGS and name != "batch_norm":
            node.update_arg(_FLAGS[name], training)
        elif name == "add_" and buffer_of(node.args[0]).endswith("num_batches_tracked"):
            node.update_arg(1, int(statistics))
        elif name == _ATTENTION:
            _set_probability(node, training)
    graph.recompile()


def _set_probability(node: fx.Node, training: bool) -> None:
    """Switch the dropout of attention, whose probability is an argument."""
    if _PROBABILITY not in node.meta:
        node.meta[_PROBABILITY] = node.args[4] if len(node.args) > 4 else node.kwargs.get(_PROBABILITY, 0.0)
    wanted: Any = node.meta[_PROBABILITY] if training else 0.0
    if len(node.args) > 4:
        node.update_arg(4, wanted)
    else:
        node.update_kwarg(_PROBABILITY, wanted)


def norms_of(graph: fx.GraphModule) -> Norms:
    """Return momentum and epsilon of every BatchNorm with running statistics, by the path of its running mean."""
    found = [node for node in _calls(graph) if operator(node) == "batch_norm" and node.args[3] is not None]
    return {buffer_of(node.args[3]): (node.args[6], node.args[7]) for node in found}  # type: ignore[misc]


def restore_norms(graph: fx.GraphModule, norms: Norms) -> None:
    """Give BatchNorms their momentum and epsilon, which torchao's fusion with convolutions sets to PyTorch's usual ones."""
    for node in _calls(graph):
        first = buffer_of(node.args[0]) if node.args else ""
        if operator(node) == "batch_norm" and buffer_of(node.args[3]) in norms:
            momentum, epsilon = norms[buffer_of(node.args[3])]
            node.update_arg(6, momentum)
            node.update_arg(7, epsilon)
        elif operator(node) == "add" and first.endswith("running_var"):
            mean = f"{first.removesuffix('running_var')}running_mean"
            if mean in norms:
                node.update_arg(1, norms[mean][1])
    graph.recompile()


def has_batch_norm(graph: fx.GraphModule) -> bool:
    """Return True if a graph has a BatchNorm."""
    return any(operator(node) == "batch_norm" for node in _calls(graph))


def operator(node: fx.Node) -> str:
    """Return the name of a node's operator, such as ``conv2d``; empty if it calls none of PyTorch's."""
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) else ""


def buffer_of(node: object) -> str:
    """Return the path of the tensor that a node reads from the network; empty for other nodes."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else ""


def _calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in graph.graph.nodes if node.op == "call_function")
