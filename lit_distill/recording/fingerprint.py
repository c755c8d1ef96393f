"""The identity of a recording: digests of the teacher, the data, their transforms and the versions in use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_distill.recording.marks import mark
from lit_distill.recording.replay import ReplayData
from lit_distill.recording.seeding import Key
from lit_distill.utils.nested import differing

_PACKAGES = ("torch", "torchvision", "numpy", "pillow")
_LOOKED_AT = 16
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_HOLDERS = ("dataset", "data")
_TRANSFORMS = ("transform", "target_transform", "transforms", "augment")


def fingerprint_model(model: nn.Module) -> dict[str, str]:
    """Return the class of a network, a digest of its weights and buffers, and one of the text of its layers.

    The text holds what no weight shows: an ensemble's average, the size that inputs are resized to.
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    words = hashlib.sha256(without_addresses(model).encode()).hexdigest()
    return {"class": name, "weights": content_digest(dict(model.state_dict())), "layers": words}


def fingerprint_data(data: ReplayData, views: int, marked: bool = True) -> dict[str, Any]:
    """Return the class and size of a data set, the text of its transforms, and a digest of 16 replayed samples, in two views.

    A change of what all samples go through changes the digest; a change of other samples does not, and is noticed by their
    marks in the records, when training reads them. Recordings without marks have another digest.
    """
    count = len(data)
    samples = [mark(data[key]) if marked else data[key] for key in looked_at(count, views)]
    name = f"{type(data.data).__module__}.{type(data.data).__qualname__}"
    return {
        "class": name,
        "samples": count,
        "digest": content_digest(samples),
        "transforms": describe_transforms(data.data),
    }


def looked_at(count: int, views: int) -> list[Key]:
    """Return the samples that the digest is of, from all over the data set, in the first view and in the last."""
    return [(view, index) for index in evenly_spaced(count) for view in sorted({0, views - 1})]


def evenly_spaced(count: int) -> list[int]:
    """Return up to 16 samples from all over a data set."""
    return sorted({place * (count - 1) // (_LOOKED_AT - 1) for place in range(_LOOKED_AT)})


def describe_transforms(data: Any) -> list[str]:
    """Return the transforms of a data set and those inside it, as text."""
    found: list[str] = []
    while data is not None and len(found) < 20:
        for name in _TRANSFORMS:
            if getattr(data, name, None) is not None:
                found.append(f"{name}: {without_addresses(getattr(data, name))}")
        data = next((vars(data)[name] for name in _HOLDERS if name in getattr(data, "__dict__", {})), None)
    return found


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that decode, draw and compute."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def manifest_differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that differs between two manifests."""
    return [
        f"{path}: recorded {_short(before)}, now {_short(after)}"
        for path, before, after in differing(recorded, now, union=True)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def without_addresses(value: Any) -> str:
    """Return a thing's ``repr`` on one line, the same in every process."""
    return " ".join(_ADDRESS.sub("", repr(value)).split())


def content_digest(value: Any) -> str:
    """Return 32 hexadecimal digits that depend on every byte of nested tensors, arrays, images and plain values."""
    state = hashlib.sha256()
    _feed(state, value)
    return state.hexdigest()[:32]


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        state.update(f"{value.dtype}{list(value.shape)}".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            state.update(str(key).encode())
            _feed(state, value[key])
    elif isinstance(value, (list, tuple)):
        state.update(f"{len(value)} of".encode())
        for item in value:
            _feed(state, item)
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):  # a Pillow image
        state.update(f"{value.mode}{value.size}".encode() + value.tobytes())
    else:
        state.update(without_addresses(value).encode())
