"""Finds the blocks that a network repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from lit_distill.capture.observing import LayerCall

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def has_weight(module: nn.Module) -> bool:
    """Return True for a convolution, a linear or recurrent layer, an embedding and the like."""
    return any(parameter.dim() > 1 for parameter in module._parameters.values() if parameter is not None)


def blocks_of(network: nn.Module, calls: Sequence[LayerCall], all_calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Return the calls of the outermost modules of classes that a network repeats, in order.

    Each has two or more layers with weights. A stage, which is repeated too, gives way to the blocks in its lists. Recurrent
    layers are blocks in any case.
    """
    search = _Search(calls, all_calls)
    paths = set(search.within("", network))
    # A module that blocks share is called inside them, wherever its path is.
    return [call for call in calls if call.path in paths and not paths.intersection(call.callers)]


class _Search:
    def __init__(self, calls: Sequence[LayerCall], all_calls: Sequence[LayerCall]) -> None:
        self._readable = {call.path for call in calls}
        ran = Counter(type(call.module) for call in all_calls)
        self._repeated = {kind for kind, times in ran.items() if times > 1 and kind not in _LISTS}

    def _is_block(self, path: str, module: nn.Module) -> bool:
        if path not in self._readable:
            return False
        return isinstance(module, nn.RNNBase) or (type(module) in self._repeated and layers_in(module) > 1)

    def within(self, path: str, module: nn.Module) -> list[str]:
        """Return the paths of the outermost blocks in a module."""
        if path and self._is_block(path, module):
            return self._listed(path, module) or [path]
        children = ((f"{path}.{name}".lstrip("."), child) for name, child in module.named_children())
        return [found for place, child in children for found in self.within(place, child)]

    def _listed(self, path: str, module: nn.Module) -> list[str]:
        """Return the paths of the blocks in the lists of a stage: a list of blocks is of one class, or has one twice."""
        found: list[str] = []
        for name, child in module.named_children():
            if type(child) not in _LISTS:
                continue
            members = [(f"{path}.{name}.{key}", one) for key, one in child.named_children()]
            kinds = Counter(type(one) for place, one in members if self._is_block(place, one))
            if kinds and (len(kinds) == 1 or max(kinds.values()) > 1):
                found += [block for place, one in members for block in self.within(place, one)]
            else:
                found += self._listed(f"{path}.{name}", child)
        return found


def layers_in(module: nn.Module) -> int:
    """Return the number of layers with weights in a module, itself included."""
    return sum(map(has_weight, module.modules()))
