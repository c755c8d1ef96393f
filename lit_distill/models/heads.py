"""The classifier of a network: where it is, how many classes it has, and another in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import call_model
from lit_distill.outputs import read_logits
from lit_distill.utils.names import first_line
from lit_distill.utils.restoring import as_in_evaluation

SIZES = (224, 32, 64, 96, 128, 160, 192, 256, 288, 299, 384)  # that are tried on a network that says none
_KINDS = (nn.Linear, nn.Conv2d)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits ``[B, K]`` of a network for images, in whatever it wraps them.

    Raises:
        ValueError: It returns none: features, maps, boxes.
    """
    return _as_logits(network, call_model(network, images))


def _as_logits(network: nn.Module, raw: Any) -> Tensor:
    try:
        logits = read_logits(raw, owner="network")
    except ValueError as error:
        raise ValueError(f"the {type(network).__name__} is no classifier of images: {error}") from error
    if logits.dim() != 2:
        raise ValueError(
            f"the {type(network).__name__} is no classifier of images: it returns {list(logits.shape)}, where [batch, classes] "
            "is needed."
        )
    return logits


def first_fitting(network: nn.Module, sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int] | None, int]:
    """Return the first of some sizes that a network takes, and its number of classes; None and 0 if it takes none.

    Raises:
        ValueError: It takes a size, and is no classifier.
    """
    for size in sizes:
        try:
            raw = _output(network, size)
        except Exception:  # a network refuses a size in any way
            continue
        return size, _as_logits(network, raw).shape[1]
    return None, 0


def why_refused(network: nn.Module, size: tuple[int, int]) -> str:
    """Return why a network does not take images of a size, in its own words; empty if it does."""
    try:
        _output(network, size)
    except Exception as error:  # a network refuses a size in any way
        return first_line(error)
    return ""


def _output(network: nn.Module, size: tuple[int, int]) -> Any:
    with torch.no_grad(), as_in_evaluation(network):
        return call_model(network, torch.zeros(2, 3, *size))


def classifier_path(network: nn.Module, size: tuple[int, int] | None = None) -> str:
    """Return the path of a network's classifier: the last layer that runs and puts out as many values as there are classes.

    Raises:
        ValueError: There is none, such as in a network that computes its logits by other means.
    """
    calls: list[tuple[str, int]] = []
    names = {module: name for name, module in network.named_modules() if isinstance(module, _KINDS)}
    handles = [module.register_forward_hook(_note(calls, name, module)) for module, name in names.items()]
    try:
        fits, classes = first_fitting(network, [size] if size is not None else [(one, one) for one in SIZES])
    finally:
        for handle in handles:
            handle.remove()
    found = [name for name, outputs in calls if outputs == classes]
    if fits is None or not found:
        raise ValueError(
            f"the {type(network).__name__} has no layer that ends in its {classes} classes, and so none to replace; give a "
            "network that takes num_classes."
        )
    return found[-1]


def _note(calls: list[tuple[str, int]], name: str, module: nn.Module) -> Any:
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return lambda *_: calls.append((name, int(outputs)))  # type: ignore[arg-type]


def with_classes(network: nn.Module, num_classes: int, size: tuple[int, int] | None = None) -> nn.Module:
    """Return a network with a classifier of so many classes: its own if it has as many, else a new one, by torch's seed.

    Args:
        network: Any classifier; changed in place.
        num_classes: At least 1.
        size: Height and width of its images; found if None.

    Raises:
        ValueError: Its classifier is not found.
    """
    path = classifier_path(network, size)
    parent_path, _, name = path.rpartition(".")
    parent, old = network.get_submodule(parent_path), network.get_submodule(path)
    if isinstance(old, nn.Linear):
        if old.out_features == num_classes:
            return network
        new: nn.Module = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    else:
        assert isinstance(old, nn.Conv2d)
        if old.out_channels == num_classes:
            return network
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, bias=old.bias is not None)  # type: ignore[arg-type]
    setattr(parent, name, new)
    if isinstance(getattr(network, "num_classes", None), int):
        network.num_classes = num_classes  # type: ignore[assignment]
    return network
