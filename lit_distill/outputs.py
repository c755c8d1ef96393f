"""What the criteria see: the logits and features of one network for one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

_LOGIT_KEYS = ("logits", "out", "output", "outputs", "pred_logits")


@dataclass(frozen=True)
class Outputs:
    """One network's outputs for one batch.

    Attributes:
        logits: Unnormalised scores, ``[B, C]``, ``[B, T, C]`` (sequences) or ``[B, C, H, W]`` (dense);
            ``[B]`` or ``[B, 1]`` for a binary task.
        features: Captured tensors by layer reference, in the model's own order of layers.
        mask: True at the positions that count: ``[B, T]`` beside ``[B, T, C]`` logits,
            ``[B, H, W]`` beside dense logits; None where all count.
        sample_weight: How much each sample's labels count, ``[B]``; None where all count alike. Read by ``HardTarget``.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    sample_weight: Tensor | None = None

    def detach(self) -> Outputs:
        """The same values, cut from the autograd graph."""
        features = {name: feature.detach() for name, feature in self.features.items()}
        return replace(self, logits=self.logits.detach(), features=features)

    def shapes(self) -> dict[str, Any]:
        """The shapes alone, as plain lists that a checkpoint can hold."""
        features = {name: list(feature.shape) for name, feature in self.features.items()}
        return {"logits": list(self.logits.shape), "features": features}

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Any]) -> Outputs:
        """Zeros of the given shapes: enough to size projectors with no data at hand."""
        features = {name: torch.zeros(shape) for name, shape in shapes["features"].items()}
        return cls(logits=torch.zeros(shapes["logits"]), features=features)

    @classmethod
    def nothing(cls) -> Outputs:
        """The outputs of no network: what stands for the teacher where there is none."""
        return cls(logits=torch.zeros(0))


def read_logits(raw: Any, key: str | None = None) -> Tensor:
    """Find the logits in what a model returned.

    Accepts a tensor, a mapping (Hugging Face's ``ModelOutput``, torchvision's segmentation dict), an
    object with a ``logits`` attribute, or a tuple whose first tensor holds the logits.

    Args:
        raw: What ``model(inputs)`` returned.
        key: The entry of a mapping to read; found by its usual names where None.

    Raises:
        ValueError: No logits can be told from the rest.
    """
    if isinstance(raw, Tensor):
        return raw
    if isinstance(raw, Mapping):
        name = key if key is not None else next((k for k in _LOGIT_KEYS if k in raw), None)
        if name is not None and isinstance(raw.get(name), Tensor):
            return _as_tensor(raw[name])
        raise ValueError(
            f"no logits {f'under {key!r} ' if key else ''}in the model's output; it has "
            f"{sorted(map(str, raw))}. Name the entry that holds them with `output_key`."
        )
    if isinstance(getattr(raw, "logits", None), Tensor):
        return _as_tensor(raw.logits)
    if isinstance(raw, (tuple, list)):
        found = next((item for item in raw if isinstance(item, Tensor)), None)
        if found is not None:
            return found
    raise ValueError(
        f"the model returned a {type(raw).__name__}; a tensor, a tuple that starts with a tensor, "
        "or a mapping with 'logits' was expected."
    )


def _as_tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
