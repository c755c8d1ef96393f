"""Walks autograd's graph from values back to what they were computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor


def nodes_behind(values: Iterable[Tensor], passes: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """Yield every node of the graph behind values, once each; no gradient is computed.

    Args:
        values: Tensors; one without a graph has no nodes.
        passes: A test whether to go on behind a node; if None, behind all.
    """
    waiting, seen = [value.grad_fn for value in values], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if passes is None or passes(node):
            waiting.extend(following for following, _ in node.next_functions)
