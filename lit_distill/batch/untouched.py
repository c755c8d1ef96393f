"""Notices what changes things that others read too: the inputs that two networks share, the labels, the mask.

PyTorch counts the writes to a tensor, and looking the count up costs next to nothing. It does not count those through ``.data``
and NumPy's memory, nor any in inference mode: so values are compared before the first batch, and for the first one of an
evaluation.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from lit_distill.batch.batch import Arguments, Batch, attributes_of
from lit_distill.utils.bits import value_digest

_CLOSELY: ContextVar[bool] = ContextVar("closely", default=False)
_PLAIN = (str, bytes, bool, int, float, complex, type(None))
_DEPTH = 6  # objects may refer to each other in a circle


def values_are_compared() -> bool:
    """Whether watches that begin now compare values."""
    return _CLOSELY.get()


@contextmanager
def comparing_values() -> Iterator[None]:
    """Compare values too, in the watches that begin meanwhile."""
    token = _CLOSELY.set(True)
    try:
        yield
    finally:
        _CLOSELY.reset(token)


@dataclass
class _Leaf:
    """A tensor, an array or a plain value, as it was."""

    value: Any
    version: int | None
    digest: str | None


@dataclass(frozen=True)
class Change:
    """What was changed: how it is reached, how it was changed, and which values were there before and after."""

    path: str
    how: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.path}: {self.how}"

    def concerns(self, reader: Any) -> bool:
        """Whether it is a change of something inside what somebody reads, or something was taken out."""
        read = {id(value) for _, value in _leaves_of({"": reader})}
        return len(self.values) == 1 or any(id(value) in read for value in self.values)


class Watch:
    """Remembers values, to tell later what was changed of them.

    Args:
        values: Tensors, mappings, sequences and objects of them, by name.
        closely: Compare what tensors hold, and not only how often they were written to.

    Attributes:
        stirred: A tensor was written to and holds what it held: only its values tell whether something changed.
    """

    def __init__(self, values: Mapping[str, Any], closely: bool = False) -> None:
        self._values = values
        self._closely = closely or _CLOSELY.get()
        flat = None if self._closely else _flat(values)
        # Most batches; no path is needed as long as nothing was written to.
        self._counts = None if flat is None else [(t, None if t.is_inference() else t._version) for t in flat]
        self._leaves = {} if flat is not None else {path: self._seen(leaf) for path, leaf in _leaves_of(values)}
        self.stirred = False

    def _seen(self, value: Any) -> _Leaf:
        closely = self._closely and not isinstance(value, (*_PLAIN, tuple))
        return _Leaf(value, _version(value), value_digest(value) if closely else None)

    def changes(self, written: bool = False) -> list[Change]:
        """What was changed since.

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
        """The tensors that were written to, of values that hold tensors where no network can replace them."""
        assert self._counts is not None
        written = {id(tensor) for tensor, version in self._counts if _version(tensor) != version}
        leaves = _leaves_of(self._values)
        return [Change(path, "changed in place", (leaf, leaf)) for path, leaf in leaves if id(leaf) in written]

    def _how(self, leaf: _Leaf, now: Any, count_writes: bool) -> str | None:
        """How a value was changed; None where it holds what it held."""
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
    """The tensors of values that are tensors, or arguments of which each is a tensor; None where one holds more."""
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
    """The tensors, arrays and plain values inside something, each by how it is reached."""
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


# Who changed what others read ---------------------------------------------------------------------------------------


class Guard:
    """Watches batches while networks run on them.

    A copy of what has one shares it: what a rehearsal on a copy finds out counts for the original.
    """

    def __init__(self) -> None:
        self._closely = False  # a network writes to its inputs, and they hold what they held: only values tell
        self._looked: set[Hashable] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Guard:
        return self

    def watch(self, values: Mapping[str, Any]) -> Watch:
        """Remember values as they are."""
        return Watch(values, self._closely)

    def changes(self, watch: Watch, written: bool = False) -> list[Change]:
        """As ``Watch.changes``."""
        found = watch.changes(written)
        self._closely |= watch.stirred
        return found

    def closely_once(self, key: Hashable) -> AbstractContextManager[None]:
        """Compare values the first time that something is met; later ones by the count of writes alone.

        Args:
            key: What: a stage and its loader.
        """
        if key in self._looked:
            return nullcontext()
        self._looked.add(key)
        return comparing_values()

    def forget(self) -> None:
        """Look closely again at what was met."""
        self._looked.clear()

    @contextmanager
    def student_on(self, name: str, data: Batch, teacher: bool) -> Iterator[None]:
        """Refuse a student that changes, meanwhile, what the teacher or the criteria read.

        Args:
            name: The student's class.
            data: The batch.
            teacher: Whether there is one.

        Raises:
            ValueError: It does.
        """
        watch = Watch(_readings(data, data.for_teacher if teacher else None), self._closely)
        yield
        changed = self.changes(watch)
        if changed:
            raise ValueError(
                refusal(f"the student {name}", changed, "the teacher and the criteria would see what it left")
            )

    @contextmanager
    def teacher_on(self, name: str, data: Batch, training: bool = False) -> Iterator[None]:
        """Refuse a teacher that changes, meanwhile, what the student or the criteria read.

        Args:
            name: The teacher's class.
            data: The batch.
            training: The student's graph holds its inputs, and PyTorch refuses any write to them.

        Raises:
            ValueError: It does.
        """
        watch = Watch(_readings(data, data.inputs), self._closely)
        yield
        changed = self.changes(watch, training)
        if changed:
            raise ValueError(refusal(f"the teacher {name}", changed, "the student and the criteria read it too"))


def _readings(data: Batch, inputs: Any) -> dict[str, Any]:
    """What the other network and the criteria read of a batch, by what a message calls it."""
    found = {
        "inputs": inputs,
        "labels": data.target,
        "mask": data.mask,
        "lengths": data.lengths,
        "sample weights": data.sample_weight,
    }
    return {name: value for name, value in found.items() if value is not None}


def refusal(who: str, changed: Sequence[Change], why: str) -> str:
    """Say what something changed that others read, and how it can leave that alone.

    Args:
        who: What changed it.
        changed: As ``Watch.changes`` gives it.
        why: Whom it matters to.
    """
    shown = ", ".join(map(str, changed[:3])) + ", …" * (len(changed) > 3)
    return (
        f"{who} changes what it is called with ({shown}), and {why}. Compute new values in its forward (x = x - mean in place "
        "of x.sub_(mean) or x -= mean, ReLU(inplace=False) as the first layer), and change a copy of a dict or an object "
        "(batch = dict(batch))."
    )


@contextmanager
def leaves_alone(values: Mapping[str, Any]) -> Iterator[None]:
    """Refuse a criterion that changes, in the block, what the others read.

    Args:
        values: What it is given, by name.

    Raises:
        ValueError: It changes that.
    """
    watch = Watch(values, closely=True)
    yield
    changed = watch.changes()
    if changed:
        shown = ", ".join(map(str, changed[:3]))
        raise ValueError(
            f"it changes what it is given ({shown}), which the other criteria and the figures read too: compute new tensors in "
            "place of x.div_(…) or labels[…] = …"
        )


def called_in_turn(
    members: Iterable[nn.Module], guard: Guard, who: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """Call networks one after the other with the same inputs, and refuse one that changes them for the next.

    Args:
        members: The networks.
        guard: Their owner's.
        who: What a network is called, for the message: ``member`` or ``peer``.
        args: The inputs by position.
        kwargs: The inputs by name.

    Raises:
        ValueError: One does.
    """
    symbolic = (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or _is_traced((*args, *kwargs.values()))
    )
    outputs: list[Any] = []
    before: Watch | None = None
    for index, member in enumerate(members):
        if before is not None:
            _check_member(guard.changes(before), f"{who} {index - 1}")
        if not symbolic:
            before = guard.watch({"inputs": Arguments(tuple(args), kwargs)})
        outputs.append(member(*args, **kwargs))
    return outputs


def _is_traced(inputs: Iterable[Any]) -> bool:
    return any(isinstance(value, torch.fx.Proxy) for value in inputs)


def _check_member(changed: list[Change], who: str) -> None:
    if changed:
        raise ValueError(refusal(who, changed, "the next one would see what it left"))
