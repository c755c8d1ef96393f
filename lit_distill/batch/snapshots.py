"""Snapshots of values, to find out later what was changed.

PyTorch counts the writes to a tensor, and reading the count costs next to nothing. It does not count those through ``.data``
and NumPy's memory, nor any in inference mode: so values are compared before the first batch, and for the first one of an
evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_distill.batch.batch import Arguments, attributes_of
from lit_distill.utils.bits import value_digest

_CLOSELY: ContextVar[bool] = ContextVar("closely", default=False)
_PLAIN = (str, bytes, bool, int, float, complex, type(None))
_DEPTH = 6  # objects may refer to each other in a circle


def values_are_compared() -> bool:
    """Return True within ``comparing_values``."""
    return _CLOSELY.get()


@contextmanager
def comparing_values() -> Iterator[None]:
    """Compare values too, in the snapshots taken in the block."""
    token = _CLOSELY.set(True)
    try:
        yield
    finally:
        _CLOSELY.reset(token)


@dataclass
class _Leaf:
    value: Any
    version: int | None
    digest: str | None


@dataclass(frozen=True)
class Change:
    """A change: the path to what was changed, how, and the values before and after."""

    path: str
    how: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.path}: {self.how}"

    def concerns(self, reader: Any) -> bool:
        """Return True if something inside what a reader reads was changed, or something was taken out."""
        read = {id(value) for _, value in _leaves_of({"": reader})}
        return len(self.values) == 1 or any(id(value) in read for value in self.values)


class Snapshot:
    """Remembers values, to find out later what was changed.

    Args:
        values: Tensors, mappings, sequences and objects of them, by name.
        closely: Compare what tensors hold, and not only the count of writes.

    Attributes:
        stirred: A tensor was written to and holds what it held: only its values show whether something changed.
    """

    def __init__(self, values: Mapping[str, Any], closely: bool = False) -> None:
        self._values = values
        self._closely = closely or _CLOSELY.get()
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        flat = None if self._closely else tensors if len(tensors) == len(values) else _flat(values)
        # Most batches; no path is needed as long as nothing was written to.
        self._counts = None if flat is None else [(t, None if t.is_inference() else t._version) for t in flat]
        self._leaves = {} if flat is not None else {path: self._seen(leaf) for path, leaf in _leaves_of(values)}
        self.stirred = False

    def _seen(self, value: Any) -> _Leaf:
        closely = self._closely and not isinstance(value, (*_PLAIN, tuple))
        return _Leaf(value, _version(value), value_digest(value) if closely else None)

    def changes(self, written: bool = False) -> list[Change]:
        """Return what was changed since.

        Args:
            written: Count a tensor that was written to and holds what it held.
        """
        if self._counts is not None:
            wrote = any(version is not None and tensor._version != version for tensor, version in self._counts)
            return self._written() if wrote else []
        now = dict(_leaves_of(self._values))
        found = []
        for path, leaf in self._leaves.items():
            if path not in now:
                found.append(Change(path, "taken out", (leaf.value,)))
                continue
            how = self._how(leaf, now[path], written)
            if how is not None:
                found.append(Change(path, how, (leaf.value, now[path])))
        return found

    def _written(self) -> list[Change]:
        """Return the tensors that were written to, for values in which no network can replace a tensor."""
        assert self._counts is not None
        written = {id(tensor) for tensor, version in self._counts if _version(tensor) != version}
        leaves = _leaves_of(self._values)
        return [Change(path, "changed in place", (leaf, leaf)) for path, leaf in leaves if id(leaf) in written]

    def _how(self, leaf: _Leaf, now: Any, count_writes: bool) -> str | None:
        if isinstance(leaf.value, (*_PLAIN, tuple)):
            return None if type(now) is type(leaf.value) and _same(now, leaf.value) else "replaced"
        written = _version(leaf.value) != leaf.version
        if leaf.digest is not None and not (written and count_writes):
            self.stirred |= written
            if value_digest(now) == leaf.digest:
                return None
            return "changed in place" if now is leaf.value else "replaced"
        if written:
            return "changed in place"
        return None if now is leaf.value or value_digest(now) == value_digest(leaf.value) else "replaced"


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124  # NaN


def _version(value: Any) -> int | None:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


def _flat(values: Mapping[str, Any]) -> list[Tensor] | None:
    """Return the tensors of values that are tensors, or arguments that are all tensors; None if one holds more."""
    found: list[Tensor] = []
    for value in values.values():
        if isinstance(value, Tensor):
            found.append(value)
            continue
        if isinstance(value, Arguments):
            entries = (*value.positional, *value.named.values())
        elif type(value) is dict:
            entries = tuple(value.values())
        elif type(value) is tuple:
            entries = value
        else:
            return None
        for entry in entries:
            if isinstance(entry, Tensor):
                found.append(entry)
            elif not isinstance(entry, _PLAIN):
                return None
    return found


def _leaves_of(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        yield from _leaves(value, name, _DEPTH)


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor) or hasattr(value, "__array_interface__"):
        yield path, value
        return
    if isinstance(value, _PLAIN):
        yield path, value
        return
    if isinstance(value, list) and value and all(isinstance(entry, _PLAIN) for entry in value):
        yield path, tuple(value)
        return
    if depth == 0 or isinstance(value, nn.Module):
        return
    for key, entry in _entries(value):
        yield from _leaves(entry, f"{path}{key}", depth - 1)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Arguments):
        yield from ((f"[{place}]", entry) for place, entry in enumerate(value.positional))
        yield from ((f"[{name!r}]", entry) for name, entry in value.named.items())
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", entry) for key, entry in value.items())
    elif isinstance(value, (tuple, list)):
        yield from ((f"[{place}]", entry) for place, entry in enumerate(value))
    else:
        yield from ((f".{name}", entry) for name, entry in attributes_of(value).items())
