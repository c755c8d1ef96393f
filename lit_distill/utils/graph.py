"""Walks autograd's graph from values back to what they were computed from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

# PyTorch's step functions, whose gradient is always 0. A user's own of such a name, which passes gradients straight
# through, has no number at its end.
_STEPS = re.compile(r"(Round|Floor|Ceil|Trunc|Sign|Sgn|Heaviside)Backward\d+")


def nodes_behind(values: Iterable[Tensor], passes: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """Yield every node of the graph behind values, once each; no gradient is computed.

    The walk goes on behind the nodes that ``passes`` lets through, all if None.
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


def unreached_parameters(loss: Tensor, module: nn.Module) -> list[str]:
    """Return the names of the trainable parameters that a loss sends no gradient to."""
    found = reached_by(loss)
    if found is None:
        return []
    return [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in found]


def reached_by(value: Tensor, through_steps: bool = True) -> set[int] | None:
    """Return the ids of the leaves that a value's gradient reaches, even if it is 0; no gradient is computed.

    None if unknown: a re-entrant gradient checkpoint hides the parameters inside. Without ``through_steps``, what is reached
    only through rounding or a sign, where the gradient is always 0, does not count.
    """
    if not value.requires_grad:
        return set()
    if value.grad_fn is None:
        return {id(value)}
    found: set[int] = set()
    for node in nodes_behind([value], lambda node: through_steps or not _STEPS.fullmatch(node.name())):
        if "Checkpoint" in node.name():
            return None
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(id(variable))
    return found
