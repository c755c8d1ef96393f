"""Stages that networks declare themselves: timm's ``feature_info``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from lit_distill.capture.blocks import layers_in
from lit_distill.capture.observing import ForwardPass, LayerCall


def declared_blocks(done: ForwardPass, calls: Sequence[LayerCall], blocks: Sequence[LayerCall]) -> list[LayerCall]:
    """Return the members of the list that holds most layers of a timm network's ``feature_info``; nothing for other networks.

    The layers themselves are not always the last at their resolution, and may be a stem's or a head's activation. At the top
    of a network, whose stem is in no list, only what runs from its first block on counts.
    """
    for path, module in done.network.named_modules():
        parents = Counter(f"{path}.{name}".lstrip(".").rpartition(".")[0] for name in declared_layers(module))
        if not parents:
            continue
        parent, _ = parents.most_common(1)[0]
        start = calls.index(blocks[0]) if parent == path and blocks else 0
        members = [
            call
            for call in calls[start:]
            if call.path.rpartition(".")[0] == parent and done.times(call.path) == 1 and layers_in(call.module) > 1
        ]
        if len(members) > 1:
            return members
    return []


def declared_layers(module: nn.Module) -> Iterator[str]:
    """Return the layers that a timm network's ``feature_info`` names."""
    known = getattr(module, "feature_info", None)
    entries = known if isinstance(known, list) else getattr(known, "info", ())
    for entry in entries if isinstance(entries, (list, tuple)) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("module"), str):
            yield entry["module"]
