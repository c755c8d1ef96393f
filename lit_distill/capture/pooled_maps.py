"""Finds the map whose mean a network's classifier takes."""

from __future__ import annotations

import torch
from torch import nn

from lit_distill.batch.batch import Inputs, count_samples
from lit_distill.capture.observing import observe, readable


def pooled_map(network: nn.Module, inputs: Inputs) -> tuple[str, str]:
    """Return the last map whose mean over positions a network's last linear layer takes on an example, and that layer.

    Args:
        network: An image classifier; it is left as it was.
        inputs: Its inputs for a few samples.

    Raises:
        ValueError: The last linear layer takes something else.
    """
    done = observe(network, inputs)
    linear = [call for call in done.calls if isinstance(call.module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(network).__name__} has no linear classifier to classify regions with.")
    last = linear[-1]
    vectors = last.given.flatten(1) if last.given is not None else None
    for call in reversed(readable(done.calls[: done.calls.index(last)], count_samples(inputs))):
        feature = call.feature
        if vectors is None or feature is None or feature.dim() != 4 or feature[0, 0].numel() < 2:
            continue
        mean = feature.mean((2, 3))
        if mean.shape == vectors.shape and torch.allclose(
            mean, vectors, rtol=1e-3, atol=1e-4 * float(mean.abs().max())
        ):
            return (call.path if done.times(call.path) == 1 else f"{call.path}#{call.index}"), last.path
    raise ValueError(
        f"no map in {type(network).__name__} of more than one position has the mean that its last linear layer "
        f"({last.path}) takes, so that its regions cannot be classified. Name a map and a classifier that follows its pooling: "
        "RegionLogits(model, layer=…, classifier=…)."
    )
