"""Finds the networks of a model's architecture among a checkpoint's tensors, in one pass over the names."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lit_distill.utils.notices import warn

COUNTER = "num_batches_tracked"  # BatchNorm's; older checkpoints lack it
_END = "\U0010ffff"  # comes after whatever follows a prefix


@dataclass
class Entries:
    """Named tensors of a checkpoint, one network's or several networks'.

    Attributes:
        place: The key of the checkpoint that they are in; empty if they are the checkpoint.
        state: The tensors by name.
        usual: Their place is one in which a state dict usually is.
    """

    place: str
    state: Mapping[str, Any]
    usual: bool = True
    _counts: dict[int, Counter[str]] = field(default_factory=dict)  # by the model's names

    @cached_property
    def names(self) -> list[str]:
        """The names in order."""
        return sorted(self.state)

    def under(self, prefix: str) -> dict[str, Any]:
        """Return the tensors whose names start with a prefix, by the rest of their names."""
        start, stop = self._range(prefix)
        return {name[len(prefix) :]: self.state[name] for name in self.names[start:stop]}

    def _range(self, prefix: str) -> tuple[int, int]:
        return bisect_left(self.names, prefix), bisect_left(self.names, prefix + _END)

    def fitting(self, wanted: Mapping[str, Any], optional: Collection[str]) -> list[str]:
        """Return the prefixes under which the names are exactly those wanted, the shortest first."""
        needed = [name for name in wanted if name not in optional]
        found = []
        for prefix, count in self._overlaps(wanted).items():
            start, stop = self._range(prefix)
            if stop - start == count and all(prefix + name in self.state for name in needed):
                found.append(prefix)
        return sorted(found, key=_depth_first)

    def nearest(self, wanted: Mapping[str, Any]) -> tuple[int, str]:
        """Return the number of wanted names under the prefix that has most of them, and the prefix; the shortest of equals."""
        overlaps = self._overlaps(wanted)
        if not overlaps:
            return 0, ""
        prefix = min(overlaps, key=lambda one: (-overlaps[one], *_depth_first(one)))
        return overlaps[prefix], prefix

    def _overlaps(self, wanted: Mapping[str, Any]) -> Counter[str]:
        key = id(wanted)
        if key not in self._counts:
            self._counts[key] = _count(self.state, wanted)
        return self._counts[key]


def _depth_first(prefix: str) -> tuple[int, str]:
    return prefix.count("."), prefix


def _count(names: Iterable[str], wanted: Mapping[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    depths = {name.count(".") for name in wanted}
    for name in names:
        end = len(name)
        for depth in range(max(depths, default=0) + 1):  # from the last part to as many as a wanted name has
            end = name.rfind(".", 0, end)
            if depth in depths and name[end + 1 :] in wanted:
                counts[name[: end + 1]] += 1
            if end < 0:
                break
    return counts


def same_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if two networks' tensors are equal, so that it does not matter which is taken."""
    shared = [name for name in one if name in other]
    return all(_equal(one[name], other[name]) for name in shared)


def _equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return bool(one == other)
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def choose_network(
    entries: Sequence[Entries], wanted: Mapping[str, Any], optional: Collection[str], prefix: str | None, file: str
) -> dict[str, Any]:
    """Return the tensors of the network that is meant, or of the nearest; the usual place is the first of ``entries``.

    Raises:
        ValueError: Several networks fit, and nothing shows which is meant.
    """
    if prefix is not None:
        chosen = _under_prefix(entries, prefix)
        if isinstance(chosen, dict):
            return chosen
        entries = [chosen]
    fits = [
        _Fit(one, under, one is entries[0] and one.usual)
        for one in entries
        for under in one.fitting(wanted, optional)
        if same_shapes(wanted, one.under(under))
    ]
    if not fits:
        _, one = max(((entry.nearest(wanted)[0], entry) for entry in entries), key=lambda pair: pair[0])
        return one.under(one.nearest(wanted)[1])
    return _one_of(fits, file).tensors()


@dataclass(frozen=True)
class _Fit:
    entries: Entries
    under: str
    usual: bool

    @property
    def name(self) -> str:
        """The ``prefix`` that names it."""
        path = self.under if self.usual or not self.entries.place else f"{self.entries.place}.{self.under}"
        return path.rstrip(".")

    def tensors(self) -> dict[str, Any]:
        return self.entries.under(self.under)


def _under_prefix(entries: Sequence[Entries], prefix: str) -> dict[str, Any] | Entries:
    """Return the tensors under a prefix, or the place of that name."""
    dotted = prefix.rstrip(".") + "." if prefix else ""
    found = entries[0].under(dotted)
    if found:
        return found
    for one in entries:
        if one.place and dotted == f"{one.place}.":
            return one
        inner = dotted.removeprefix(f"{one.place}.") if one.place else dotted
        if (inner != dotted or not one.place) and one.under(inner):
            return one.under(inner)
    return found


def _one_of(fits: Sequence[_Fit], file: str) -> _Fit:
    different: list[_Fit] = []
    for fit in fits:
        if not any(same_tensors(fit.tensors(), other.tensors()) for other in different):
            different.append(fit)
    first, names = different[0], ", ".join(repr(fit.name) for fit in different)
    student = next((fit for fit in different if fit.usual and fit.under == "student."), None)
    usual = [fit for fit in different if fit.usual]
    if len(different) == 1:
        return first
    if student is None and len(usual) != 1:
        raise ValueError(
            f"{file} holds {len(different)} networks of this architecture, under {names}: choose one, such as "
            f"prefix={first.name!r}."
        )
    chosen = student or usual[0]
    where = repr(chosen.name) if chosen.name else repr(chosen.entries.place or "the top level")
    warn(
        f"{file} holds {len(different)} networks of this architecture; that under {where} is loaded. The others: "
        f"{', '.join(repr(fit.name) for fit in different if fit is not chosen)}; prefix=... takes one of them."
    )
    return chosen


def same_shapes(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return True if all shapes are the model's; a tensor without a shape yet has any."""
    return all(
        shape_of(mine) in (None, shape_of(found.get(name))) or name not in found for name, mine in wanted.items()
    )


def shape_of(tensor: Any) -> list[int] | None:
    """Return a tensor's shape; None for what is no tensor, or has no shape yet."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or tensor.is_nested:
        return None
    return list(tensor.shape)
