"""The logits and features of one network for one batch, which criteria compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

_LOGIT_KEYS = ("logits", "out", "output", "outputs", "pred_logits")

OutputKey = str | int | Callable[[Any], Tensor]


class UnreadLogits:
    """Placeholder for logits that could not be found in a network's output; reading it raises the reason.

    Criteria that compare only features never read it, so that detectors and encoders need no logits.

    Args:
        reason: Why there are none, and what to do.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def refuse(self) -> NoReturn:
        """Raise the reason as a ``ValueError``."""
        raise ValueError(self.reason)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # asked for by copying and pickling
        self.refuse()

    def __getitem__(self, index: Any) -> Any:
        self.refuse()

    def __len__(self) -> int:  # noqa: PLE0303
        self.refuse()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        next(value for value in given if isinstance(value, UnreadLogits)).refuse()


@dataclass(frozen=True)
class Outputs:
    """One network's outputs for one batch.

    Attributes:
        logits: Unnormalised scores, ``[B, C]``, ``[B, T, C]`` (sequences), ``[B, C, H, W]`` (dense) or ``[B, C, D, H, W]``
            (volumes); ``[B]`` or ``[B, 1]`` for a binary task.
        features: Captured tensors by layer reference, in the model's own order of layers: vectors ``[B, D]``, tokens
            ``[B, N, D]``, maps ``[B, C, H, W]`` or volumes ``[B, C, D, H, W]``.
        mask: True at the positions that count: ``[B, T]`` for ``[B, T, C]`` logits, ``[B, H, W]`` for dense logits; with
            ``[B]`` and ``[B, C]`` logits, those of the input tokens. None if all count.
        sample_weight: How much each sample's labels count, ``[B]``; None if all count alike. Read by ``HardTarget``.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    sample_weight: Tensor | None = None

    @property
    def has_logits(self) -> bool:
        """True if logits were found in the network's output."""
        return isinstance(self.logits, Tensor)

    @property
    def logit_mask(self) -> Tensor | None:
        """The mask, if it is one of the logits' positions; None for ``[B]`` and ``[B, C]`` logits."""
        return self.mask if self.logits.dim() > 2 else None

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        if isinstance(self.logits, Tensor):
            return self.logits.device
        return next((tensor.device for tensor in self.features.values()), torch.device("cpu"))

    def tensors(self) -> list[Tensor]:
        """Return the logits, if there are any, and the features."""
        return [*([self.logits] if self.has_logits else []), *self.features.values()]

    def detach(self) -> Outputs:
        """Return the same values, detached from the autograd graph."""
        features = {name: feature.detach() for name, feature in self.features.items()} if self.features else {}
        logits = self.logits.detach() if isinstance(self.logits, Tensor) else self.logits
        return Outputs(logits, features, self.mask, self.sample_weight)

    def shapes(self) -> dict[str, Any]:
        """Return the shapes as plain lists that a checkpoint can hold; ``[0]`` if there are no logits."""
        features = {name: list(feature.shape) for name, feature in self.features.items()}
        return {"logits": list(self.logits.shape) if self.has_logits else [0], "features": features}

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Any]) -> Outputs:
        """Return zeros of the given shapes: enough to size projectors without data."""
        features = {name: torch.zeros(shape) for name, shape in shapes["features"].items()}
        return cls(logits=torch.zeros(shapes["logits"]), features=features)

    @classmethod
    def nothing(cls) -> Outputs:
        """Return empty outputs, which stand for the teacher if there is none."""
        return cls(logits=torch.zeros(0))


def logits_or_reason(raw: Any, key: OutputKey | None, owner: str) -> Tensor:
    """Find the logits in a model's output, or return a placeholder that raises the reason when it is read."""
    try:
        return read_logits(raw, key, owner)
    except ValueError as error:
        return unread(str(error))


def unread(reason: str) -> Tensor:
    """Return a placeholder for logits that could not be found; see ``UnreadLogits``."""
    return cast(Tensor, UnreadLogits(reason))


def read_logits(raw: Any, key: OutputKey | None = None, owner: str = "model") -> Tensor:
    """Find the logits in what a model returned.

    Accepts a tensor, a mapping (Hugging Face's ``ModelOutput``, torchvision's segmentation dict), an
    object with a ``logits`` attribute, or a tuple with one tensor that can be logits: losses, indices and
    per-sample numbers are skipped if there is a tensor of two dimensions or more.

    Args:
        raw: The return value of ``model(inputs)``.
        key: The entry to read: a key, an attribute, an index, or a function of ``raw``; found by its usual names if None.
            If the model returns a tensor, that tensor is read.
        owner: ``student`` or ``teacher``, for error messages.

    Raises:
        ValueError: No logits can be told from the rest; the message lists the entries.
    """
    if callable(key):
        made = key(raw)
        if not isinstance(made, Tensor):
            raise ValueError(f"`{_option(owner)}` made a {type(made).__name__} of the {owner}'s output, not a tensor.")
        return made
    if isinstance(raw, Tensor):
        return raw
    if key is not None:
        return _entry(raw, key, owner)
    if isinstance(raw, Mapping):
        names = ["logits"] if "logits" in raw else [name for name in _LOGIT_KEYS if isinstance(raw.get(name), Tensor)]
        found = raw.get(names[0]) if len(names) == 1 else None if names else _only(list(raw.values()))
        if isinstance(found, Tensor):
            return found
        raise ValueError(
            f"no logits in the {owner}'s output; it has {sorted(map(str, raw))}. Name the entry that holds them with "
            f"`{_option(owner)}`."
        )
    if isinstance(getattr(raw, "logits", None), Tensor):
        return cast(Tensor, raw.logits)
    if isinstance(raw, (tuple, list)):
        return _of_several(raw, owner)
    raise ValueError(
        f"the {owner} returned a {type(raw).__name__}; a tensor, a tuple that holds one tensor of logits, "
        "or a mapping with 'logits' was expected."
    )


def _option(owner: str) -> str:
    return "teacher_output_key" if owner == "teacher" else "output_key"


def _entry(raw: Any, key: str | int, owner: str) -> Tensor:
    """Return the entry of an output that a key, an index or an attribute's name selects."""
    found = None
    if isinstance(raw, Mapping):
        found = raw.get(key)
        if found is None and isinstance(key, int) and -len(raw) <= key < len(raw):
            found = list(raw.values())[key]  # Hugging Face's outputs are indexed like this
        there = f"it has {sorted(map(str, raw))}"
    elif isinstance(key, int):
        entries: Sequence[Any] = raw if isinstance(raw, (tuple, list)) else ()
        found = entries[key] if -len(entries) <= key < len(entries) else None
        there = f"it is a {type(raw).__name__} of {len(entries)}"
    else:
        found = getattr(raw, key, None)
        there = f"it is a {type(raw).__name__}"
    if isinstance(found, Tensor):
        return found
    raise ValueError(f"no logits under {key!r} in the {owner}'s output; {there}. Change `{_option(owner)}`.")


def _only(values: Iterable[Any]) -> Tensor | None:
    """Return the only tensor among the values, or None."""
    found = [value for value in values if isinstance(value, Tensor)]
    return found[0] if len(found) == 1 else None


def _candidates(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors that can be logits: floating-point, and of two dimensions or more if any is."""
    floats = [value for value in values if isinstance(value, Tensor) and value.is_floating_point() and value.dim()]
    wide = [value for value in floats if value.dim() > 1]
    # One number per sample may be a logit too, or a score next to features.
    return [value for value in floats if value.dim() > 1 or len(value) == len(wide[0])] if wide else floats


def _of_several(raw: Sequence[Any], owner: str) -> Tensor:
    found = _candidates(raw)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"the {owner} returned a {type(raw).__name__} without a tensor that can be logits; a tensor, a tuple that holds "
            "one, or a mapping with 'logits' was expected."
        )
    shown = ", ".join(f"{place}: {list(v.shape)}" for place, v in enumerate(raw) if isinstance(v, Tensor))
    raise ValueError(
        f"the {owner} returns several tensors that could be the logits ({shown}); say which holds them, by its index or by a "
        f"function of the output: BatchFormat({_option(owner)}=0), or another of these."
    )
