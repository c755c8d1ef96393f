"""Removes what ``Distill`` added to a checkpoint, so that the module loads it without ``Distill``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.files.checkpoint_file import read_checkpoint
from lit_distill.files.whole_file import write_whole
from lit_distill.utils.arguments import wrong_type
from lit_distill.utils.names import listed

_WEIGHTS = ("state_dict", "current_model_state", "averaging_state")


def strip(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Lightning checkpoint without the projectors, learned weights and entries of ``Distill``.

    Everything of the module and of other callbacks stays, optimizer states included, so that a training without ``Distill``
    can continue from it.

    Args:
        checkpoint: The result of ``torch.load``; it does not change.

    Raises:
        TypeError: It is not a mapping.
    """
    if not isinstance(checkpoint, Mapping):
        remedy = "give what torch.load gives; `lit-distill strip IN OUT` takes a file."
        raise wrong_type("checkpoint", checkpoint, remedy)
    stripped = dict(checkpoint)
    for name in _WEIGHTS:
        if isinstance(checkpoint.get(name), Mapping):
            stripped[name] = {key: value for key, value in checkpoint[name].items() if not _is_ours(key)}
    entry = stripped.pop(ENTRY_KEY, None)
    added = entry.get("in_optimizer", 0) if isinstance(entry, Mapping) else 0
    group = entry.get("parameter_group", 0) if isinstance(entry, Mapping) else 0  # missing in older versions
    if added and checkpoint.get("optimizer_states"):
        first, *others = checkpoint["optimizer_states"]
        stripped["optimizer_states"] = [_without_last(first, added, group), *others]
    return stripped


def strip_file(source: str | Path, destination: str | Path, trust: bool = False) -> list[str]:
    """Strip a checkpoint file.

    Args:
        source: The checkpoint.
        destination: Path of the stripped checkpoint; may be the same file.
        trust: Also read a file that holds Python objects, as hyperparameters may be; loading it can run code.

    Returns:
        A report in lines to print.

    Raises:
        ValueError: The file is not a Lightning checkpoint, or holds Python objects and is not trusted.
    """
    checkpoint = read_checkpoint(Path(source), trust)
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        raise ValueError(f"{source} is no Lightning checkpoint: it has no 'state_dict'.")
    try:
        stripped = strip(checkpoint)
        gone = [key for key in checkpoint["state_dict"] if _is_ours(key)]
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{source} is damaged: it is not as Lightning and Distill write it ({error!r}).") from error
    content = io.BytesIO()
    torch.save(stripped, content)
    write_whole(destination, content.getbuffer())  # the source may be the destination, and must not be lost
    what = f"{len(gone)} tensors taken out ({listed(gone, 3)})" if gone else "nothing to take out"
    return [f"{source}: {what}.", f"Written: {destination}"]


def _is_ours(key: str) -> bool:
    return key.startswith((f"{ENTRY_KEY}.", f"module.{ENTRY_KEY}."))


def _without_last(optimizer: Mapping[str, Any], count: int, index: int) -> dict[str, Any]:
    """Return an optimizer's state without the last parameters of one of its groups."""
    groups = list(optimizer["param_groups"])
    kept = groups[index]["params"]
    gone = set(kept[-count:])
    groups[index] = {**groups[index], "params": kept[:-count]}
    return {
        **optimizer,
        "state": {k: v for k, v in optimizer["state"].items() if k not in gone},
        "param_groups": groups,
    }
