"""Copies of networks, including those that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

_ATOMS = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    types.CodeType,
    weakref.ref,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
)


def copied(thing: T, shared: Iterable[object] = ()) -> T:
    """Return a deep copy of a module, or of a tuple of things that belong together, except of the objects in ``shared``.

    A tensor inside an autograd graph (the weight of an old-style ``weight_norm``, a loss that was kept) is copied as a plain
    tensor. What cannot be copied at all (a lock, an open file, a generator) is shared with the original.
    """
    memo: dict[int, Any] = {id(one): one for one in shared}
    try:
        return copy.deepcopy(thing, dict(memo))
    except Exception:  # only a search of everything inside shows the cause
        substitutes = _Substitutes(memo)
        substitutes.find(thing)
        return copy.deepcopy(thing, substitutes.memo)


class _Substitutes:
    """Finds what ``copy.deepcopy`` cannot copy, and substitutes for it, by following ``__reduce_ex__`` as ``deepcopy`` does."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self.memo = memo
        self._seen: dict[int, object] = {}  # keeps the objects: the id of a deleted one could be reused

    def find(self, thing: object) -> None:
        waiting = [thing]
        while waiting:
            one = waiting.pop()
            if isinstance(one, _ATOMS) or id(one) in self.memo or id(one) in self._seen:
                continue
            self._seen[id(one)] = one
            waiting.extend(self._inside(one))

    def _inside(self, thing: Any) -> Iterator[object]:
        """Yield the parts of a thing; none if it copies itself, or has a substitute."""
        if isinstance(thing, Tensor):
            if not thing.is_leaf:
                self.memo[id(thing)] = thing.detach().clone()
            return
        if isinstance(thing, (tuple, list, set, frozenset)):
            yield from thing
            return
        if isinstance(thing, types.MethodType):
            yield thing.__self__
            return
        if hasattr(thing, "__deepcopy__"):
            return
        try:
            reduced = thing.__reduce_ex__(4)
        except Exception:  # it can be neither copied nor pickled
            self.memo[id(thing)] = thing
            return
        if isinstance(reduced, tuple):
            _, arguments, *rest = reduced
            yield from arguments
            for part in rest:
                yield from part if isinstance(part, Iterator) else (part,)
