"""Refuses criteria that have trained in another module: their projectors, queues and statistics would be wrong here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import tensors_of
from lit_distill.batch.layout import usual_channel_dim
from lit_distill.criteria import Criterion
from lit_distill.outputs import Outputs
from lit_distill.utils.bits import value_digest

_MARK = "_made_for"
_LOADED = "loaded"


@dataclass(frozen=True)
class _Made:
    """The owner that a part was made for, a digest of what it held then, and the sizes of the owner's networks."""

    owner: str
    held: str
    sizes: str


class ReuseGuard:
    """Records which module trained the criteria; copies of a module are one owner.

    Attributes:
        token: Identifies the owner.
        loaded: The state was loaded from a checkpoint.
    """

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex
        self.loaded = False

    def record(self, parts: Mapping[str, nn.Module], sizes: Any) -> None:
        """Record new criteria and the balance, layers built, before they learn; ``sizes`` are those of the networks' outputs.

        Raises:
            ValueError: A part has layers for networks of other sizes, from another module.
        """
        for name, part in parts.items():
            made, now = _mark_of(part), held_by(part)
            if made is None or (made.owner == self.token and not made.sizes and made.held != _LOADED):
                setattr(part, _MARK, _Made(self.token, now, repr(sizes)))
            elif made.owner != self.token and made.sizes not in ("", repr(sizes)) and now != _NOTHING:
                raise ValueError(
                    f"{_which(name, part)} has layers that were made for another module, whose networks have other sizes: make "
                    "new criteria for each module."
                )

    def claim(self, parts: Mapping[str, nn.Module]) -> None:
        """Take over parts at the start of a fit; refuse one that has learned for another owner."""
        for name, part in parts.items():
            made = _mark_of(part)
            if made is None or made.owner == self.token:
                continue
            if made.held != held_by(part):
                raise ValueError(
                    f"{_which(name, part)} has trained in another module, and holds its layers and statistics: make new "
                    "criteria for each module (build the dict inside the loop, or give copies made before the first fit)."
                )
            setattr(part, _MARK, replace(made, owner=self.token))

    def record_new(self, part: nn.Module, before: str) -> None:
        """Record a balance that was built again, and so holds nothing of another training.

        One that still holds what it did ``before`` keeps its owner.
        """
        now = held_by(part)
        if _mark_of(part) is None or now != before:
            setattr(part, _MARK, _Made(self.token, now, ""))

    def record_loaded(self, parts: Mapping[str, nn.Module]) -> None:
        """Take over parts whose state a checkpoint of this owner replaces."""
        self.loaded = True
        for part in parts.values():
            setattr(part, _MARK, _Made(self.token, _LOADED, ""))


def widths(outputs: Outputs) -> list[Any]:
    """Return what sizes the layers of criteria: the number of dimensions and channels of each tensor of an example."""
    sized = {name: feature.shape for name, feature in outputs.features.items()}
    if outputs.has_logits:
        sized["logits"] = outputs.logits.shape
    return [
        (name, len(shape), shape[usual_channel_dim(len(shape))] if len(shape) else 0) for name, shape in sized.items()
    ]


def held_by(part: nn.Module) -> str:
    """Return a digest of the tensors that a module holds, in its state or as attributes, whatever their floating-point type."""
    held: list[Any] = [*part.named_parameters(), *part.named_buffers()]
    for prefix, module in part.named_modules():
        own = {
            name: value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")
        }
        held += [(prefix, name, tensors_of(value)) for name, value in own.items() if not isinstance(value, nn.Module)]
    return value_digest([_wide(entry) for entry in held if tensors_of(entry)])


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        detached = value.detach()
        return detached.to(torch.float64) if value.is_floating_point() else detached
    return [_wide(entry) for entry in value] if isinstance(value, (list, tuple)) else value


_NOTHING = value_digest([])


def _mark_of(part: nn.Module) -> _Made | None:
    found = getattr(part, _MARK, None)
    return found if isinstance(found, _Made) else None


def _which(name: str, part: nn.Module) -> str:
    kind = type(part).__name__
    return f"criterion {name!r} ({kind})" if isinstance(part, Criterion) else f"the balance ({kind})"
