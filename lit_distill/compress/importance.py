"""What makes a channel worth keeping, by name; torch-pruning computes it over all layers that share the channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from lit_distill.batch.labels import Task
from lit_distill.capture.capture import Capture
from lit_distill.criteria import HardTarget
from lit_distill.export.reading import Part
from lit_distill.models.pruned import torch_pruning
from lit_distill.outputs import OutputKey, Outputs

Importance = Literal["magnitude", "taylor", "bn_scale", "random"]


def importance_named(name: Importance, network: nn.Module) -> Any:
    """Return torch-pruning's importance of a name.

    Raises:
        ValueError: The network has nothing that it is read from.
    """
    importance = torch_pruning().importance
    if name == "bn_scale" and not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules()):
        raise ValueError(
            f"importance is bn_scale, and the {type(network).__name__} has no BatchNorm; take magnitude or taylor."
        )
    made = {
        "magnitude": importance.GroupMagnitudeImportance,
        "taylor": importance.GroupTaylorImportance,
        "bn_scale": importance.BNScaleImportance,
        "random": importance.RandomImportance,
    }
    return made[name]()


def add_gradients(network: nn.Module, parts: Sequence[Part], task: Task, output_key: OutputKey | None) -> None:
    """Leave the gradient of the loss on labels in every parameter, summed over batches, for ``taylor``.

    Raises:
        ValueError: There are no labels.
    """
    if not parts or any(part.target is None for part in parts):
        what = "the training data have none" if parts else "there are no training data"
        raise ValueError(
            f"importance is taylor, which needs labels, and {what}: give data=, a DataModule or a loader with labels, or take "
            "magnitude."
        )
    if any(isinstance(part.target, Mapping) for part in parts):
        raise ValueError(
            "importance is taylor, which sums the loss of one task, and the data have several; take magnitude."
        )
    loss, capture = HardTarget(task=task), Capture(network, (), output_key, "student")
    with torch.enable_grad():
        for part in parts:
            outputs = capture.run(part.inputs, part.mask)
            loss(outputs, Outputs.nothing(), part.target).backward()
    capture.remove()
