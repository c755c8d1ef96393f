"""Runs a network once and reads what every module in it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, call_model
from lit_distill.batch.layout import Evidence, Placement, dense, observed
from lit_distill.capture.contexts import dense_encoders, muted
from lit_distill.capture.hooks import padded, select_tensor
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.lightning_names import is_module
from lit_distill.utils.restoring import as_in_evaluation


@dataclass(frozen=True, eq=False)
class LayerCall:
    """A call of a module in a forward pass.

    Attributes:
        path: The module's path.
        module: The module.
        index: The number of the call among the module's own, from 0.
        output: The first tensor that it returned; None if there is none.
        placement: Where that tensor holds its samples and channels; None if unknown.
        taken: The tensors that it was given as arguments.
        callers: The paths of the modules that were running around it, the outermost first.
    """

    path: str
    module: nn.Module
    index: int
    output: Tensor | None
    placement: Placement | None
    taken: tuple[Tensor, ...]
    callers: tuple[str, ...] = ()

    @property
    def given(self) -> Tensor | None:
        """The first tensor that it was given."""
        return self.taken[0] if self.taken else None

    @property
    def feature(self) -> Tensor | None:
        """The output in the layout that criteria see."""
        if self.output is None or self.placement is None:
            return None
        return self.placement.arrange(self.output)


@dataclass
class ForwardPass:
    """The calls of one forward pass, in the order in which they ended."""

    network: nn.Module
    calls: list[LayerCall] = field(default_factory=list)
    returned: Any = None

    def times(self, path: str) -> int:
        """Return how often a module ran."""
        return sum(call.path == path for call in self.calls)

    def inside(self, path: str) -> ForwardPass:
        """Return what a module inside the network did, as if it had run alone."""
        own = [call for call in self.calls if call.path == path]
        calls = [
            replace(call, path=call.path.removeprefix(f"{path}."), callers=_below(path, call.callers))
            for call in self.calls
            if call.path.startswith(f"{path}.")
        ]
        return ForwardPass(self.network.get_submodule(path), calls, own[-1].output if own else None)


def _below(path: str, callers: Sequence[str]) -> tuple[str, ...]:
    return tuple(caller.removeprefix(f"{path}.") for caller in callers if caller.startswith(f"{path}."))


def observe(network: nn.Module, inputs: Inputs) -> ForwardPass:
    """Run a network once, in evaluation mode and without gradients; it is left as it was."""
    inner = uncompiled(network)
    done = ForwardPass(inner)
    lightning = [module for module in inner.modules() if is_module(module)]
    modules = [module for name, module in inner.named_modules() if name and _takes_hooks(module)]
    with (
        torch.no_grad(),
        as_in_evaluation(inner),
        muted(lightning),
        dense_encoders(True),
        observed(inner, modules) as evidence,
        _noting(done, evidence),
    ):
        done.returned = call_model(inner, inputs)
    return done


def _takes_hooks(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule)


@contextmanager
def _noting(done: ForwardPass, evidence: Evidence) -> Iterator[None]:
    """Note every call of a module in the block."""
    notes = _Notes(done, evidence)
    handles = []
    for path, module in done.network.named_modules():
        if path and _takes_hooks(module):
            handles.append(module.register_forward_pre_hook(partial(notes.begin, path)))
            handles.append(module.register_forward_hook(partial(notes.end, path), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Notes:
    def __init__(self, done: ForwardPass, evidence: Evidence) -> None:
        self._done, self._evidence = done, evidence
        self._times: Counter[str] = Counter()
        self._running: list[str] = []

    def begin(self, path: str, *_: Any) -> None:
        self._running.append(path)

    def end(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        while self._running and self._running.pop() != path:  # one that ended with an error, which the network caught
            pass
        tensor = select_tensor(padded(output, bool(getattr(module, "batch_first", True))))
        tensor = dense(tensor) if tensor is not None else None
        placement = self._evidence.place(tensor, module) if tensor is not None else None
        taken = tuple(item for item in (*args, *kwargs.values()) if isinstance(item, Tensor))
        index = self._times[path]
        self._times[path] += 1
        call = LayerCall(path, module, index, tensor, placement, taken, tuple(self._running))
        self._done.calls.append(call)


def readable(calls: Sequence[LayerCall], samples: int | None) -> list[LayerCall]:
    """Return the calls whose outputs criteria can read: numbers, of as many samples, in a known layout."""
    found = []
    for call in calls:
        feature = call.feature
        if feature is None or not 2 <= feature.dim() <= 5 or not feature.is_floating_point():
            continue
        if samples is None or feature.shape[0] == samples:
            found.append(call)
    return found
