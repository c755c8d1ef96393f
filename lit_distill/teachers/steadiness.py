"""Checks that a frozen network does not change when it is called, or during a fit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lit_distill.capture.formats import weights_mark
from lit_distill.outputs import Outputs
from lit_distill.teachers.digest import combined, tensor_digests
from lit_distill.utils.bits import value_digest
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.names import listed
from lit_distill.utils.notices import warn
from lit_distill.utils.restoring import unchanged
from lit_distill.utils.rng import collect_rng_state

_FAR = 1e-3  # relative distance of two outputs for one batch: more than rounding, less than dropout
_SHOWN = 3


@dataclass(frozen=True)
class NetworkState:
    """The state of a network: a digest and the shape of each tensor, by name."""

    digests: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    mark: tuple[tuple[int, int], ...]  # equal ones mean no change, except through ``.data``

    @property
    def digest(self) -> str:
        """Digest of the whole network, equal to ``network_digest``."""
        return combined(self.digests)

    def changes(self, later: NetworkState, caches: Collection[str] = ()) -> list[str]:
        """Return the names of the tensors whose values differ later, without buffers that were resized: these are caches."""
        changed = [name for name in self.digests if self.digests[name] != later.digests.get(name)]
        return [name for name in changed if self.shapes.get(name) == later.shapes.get(name) or name not in caches]


def state_of(network: nn.Module) -> NetworkState:
    """Return the present state of a network."""
    inner = uncompiled(network)
    named = [*inner.named_parameters(remove_duplicate=False), *inner.named_buffers(remove_duplicate=False)]
    shapes = {name: tuple(tensor.shape) for name, tensor in named if not (is_lazy(tensor) or tensor.is_nested)}
    return NetworkState(tensor_digests(network), shapes, weights_mark(network))


def _buffers(network: nn.Module) -> set[str]:
    return {name for name, _ in uncompiled(network).named_buffers(remove_duplicate=False)}


def _non_persistent(network: nn.Module) -> set[str]:
    """Return the names of the buffers that are in no checkpoint, which usually are caches."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in uncompiled(network).named_modules(remove_duplicate=False)
        for name in getattr(part, "_non_persistent_buffers_set", ())
    }


# At a call ----------------------------------------------------------------------------------------------------------


def ask_steady(network: nn.Module, ask: Callable[[], Outputs]) -> Outputs:
    """Return a frozen network's outputs for an example; refuse one that changes itself, and warn of one that is random.

    It runs again only if it draws random numbers or has changed. Its buffers and modes are restored.
    """
    with unchanged(network):
        before, drawn = state_of(network), value_digest(collect_rng_state())
        outputs = ask()
        between = state_of(network)
        if between.digests == before.digests and value_digest(collect_rng_state()) == drawn:
            return outputs
        again = ask()
        after = state_of(network)
    _refuse_changes(network, before, between, after)
    distance = _distance(outputs, again)
    if distance > _FAR:
        warn(
            f"the frozen teacher {_name(network)} gives two outputs for one batch, which differ by {distance:.1%}: in eval "
            f"mode it still draws random numbers or keeps a state.{_still_training(network)} Use nn.Dropout, or pass "
            "training=self.training to its functions."
        )
    return outputs


def _refuse_changes(network: nn.Module, before: NetworkState, between: NetworkState, after: NetworkState) -> None:
    buffers, loose = _buffers(network), _non_persistent(network)
    each_time = between.changes(after)
    changed = [name for name in before.changes(after, buffers) if name not in loose]
    changed += [name for name in each_time if name not in loose and name not in changed]
    if changed:
        when = "at every call" if any(name in each_time for name in changed) else "when it is called"
        raise ValueError(
            f"the frozen teacher {_name(network)} changes itself: its {_listed(changed, buffers)} "
            f"{'changes' if len(changed) == 1 else 'change'} {when}.{_still_training(network)} Change it in forward only "
            "`if self.training:`, or keep it out of the state: register_buffer(…, persistent=False), a plain attribute."
        )
    restless = [name for name in each_time if name in loose]
    if restless:
        warn(
            f"the frozen teacher {_name(network)} changes its {_listed(restless, buffers)} at every call; it is in no "
            "checkpoint, but the outputs may depend on it."
        )


def _listed(names: list[str], buffers: set[str]) -> str:
    kind = "buffer" if names[0] in buffers else "parameter"
    return f"{kind}{'s' * (len(names) > 1)} {listed([*map(repr, names)], _SHOWN)}"


def _still_training(network: nn.Module) -> str:
    names = [repr(name or type(network).__name__) for name, part in network.named_modules() if part.training]
    if not names:
        return ""
    be = "is" if len(names) == 1 else "are"
    return f" After eval() {listed(names, _SHOWN)} {be} still in training mode: its own eval() or train() keeps it so."


def _distance(one: Outputs, other: Outputs) -> float:
    """Return the largest relative distance between the tensors of two outputs; 0 if they cannot be compared."""
    pairs = zip(one.tensors(), other.tensors(), strict=False)
    found = [0.0]
    for first, second in pairs:
        if first.shape == second.shape and first.numel() and not first.is_nested:
            wide = first.detach().to(torch.complex128 if first.is_complex() else torch.float64)
            found.append(
                float((wide - second).abs().pow(2).sum().sqrt() / wide.abs().pow(2).sum().sqrt().clamp(min=1e-12))
            )
    return max(distance for distance in found if distance == distance)  # noqa: PLR0124  # NaN is reported elsewhere


def _name(network: nn.Module) -> str:
    return str(getattr(network, "original_name", type(uncompiled(network)).__name__))


# During a fit -------------------------------------------------------------------------------------------------------


def warn_of_changed_teacher(network: nn.Module, start: NetworkState) -> None:
    """Warn if a frozen network changed during a fit, through the user's code, a callback or shared weights."""
    buffers, loose = _buffers(network), _non_persistent(network)
    changed = [name for name in start.changes(state_of(network), buffers) if name not in loose]
    if changed:
        warn(
            f"the frozen teacher {_name(network)} changed during the fit: its {_listed(changed, buffers)} "
            f"({len(changed)} of {len(start.digests)} tensors) differ from the start, so the student has learned from another "
            "network at the end. Look for a callback or an optimizer that trains the teacher, or for weights that it shares "
            "with a network that trains; a teacher of your own that changes by design sets frozen = False."
        )
