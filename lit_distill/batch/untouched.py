"""Refuses networks and criteria that change what others read too: the inputs that two networks share, the labels, the mask."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.fx
from torch import nn

from lit_distill.batch.batch import Arguments, Batch
from lit_distill.batch.snapshots import Change, Snapshot, comparing_values
from lit_distill.utils.names import listed


class Guard:
    """Watches batches while networks run on them.

    A deep copy of its owner shares it: what the dry run finds on a copy counts for the original.
    """

    def __init__(self) -> None:
        self._closely = False  # a network writes to its inputs, and they hold what they held: only values show it
        self._looked: set[Hashable] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Guard:
        return self

    def watch(self, values: Mapping[str, Any]) -> Snapshot:
        """Take a snapshot of values."""
        return Snapshot(values, self._closely)

    def changes(self, watch: Snapshot, written: bool = False) -> list[Change]:
        """Return what was changed since a snapshot; with ``written`` also tensors written to that hold what they held."""
        found = watch.changes(written)
        self._closely |= watch.stirred
        return found

    def closely_once(self, key: Hashable) -> AbstractContextManager[None]:
        """Compare values the first time that a key is met, and later only the count of writes."""
        if key in self._looked:
            return nullcontext()
        self._looked.add(key)
        return comparing_values()

    def forget(self) -> None:
        """Compare values again for keys that were met."""
        self._looked.clear()

    @contextmanager
    def running(self, who: str, data: Batch, inputs: Any, written: bool = False) -> Iterator[None]:
        """Refuse a network that changes, in the block, what the other one or the criteria read of a batch.

        ``inputs`` are those that the other network reads. With ``written``, a write that leaves the values counts as well:
        the student's graph holds the teacher's inputs.
        """
        watch = Snapshot(_readings(data, inputs), self._closely)
        yield
        changed = self.changes(watch, written)
        if changed:
            raise ValueError(refusal(who, changed, "the other network and the criteria read it too"))


def _readings(data: Batch, inputs: Any) -> dict[str, Any]:
    """Return what the other network and the criteria read of a batch, by its name in messages."""
    found = {
        "inputs": inputs,
        "labels": data.target,
        "mask": data.mask,
        "lengths": data.lengths,
        "sample weights": data.sample_weight,
    }
    return {name: value for name, value in found.items() if value is not None}


def refusal(who: str, changed: Sequence[Change], why: str) -> str:
    """Return the error for inputs that were changed: what, why it matters, and how to avoid it."""
    shown = listed([str(change) for change in changed], 3)
    return (
        f"{who} changes what it is called with ({shown}), and {why}. Compute new values in its forward (x = x - mean in place "
        "of x.sub_(mean) or x -= mean, ReLU(inplace=False) as the first layer), and change a copy of a dict or an object "
        "(batch = dict(batch))."
    )


@contextmanager
def leaves_alone(values: Mapping[str, Any]) -> Iterator[None]:
    """Refuse a criterion that changes, in the block, what the others read."""
    watch = Snapshot(values, closely=True)
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

    Raises:
        ValueError: One does.
    """
    symbolic = (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or _is_traced((*args, *kwargs.values()))
    )
    outputs: list[Any] = []
    before: Snapshot | None = None
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
