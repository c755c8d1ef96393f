"""Outputs of sequences of differing length, stored at one length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from lit_distill.outputs import Outputs


def pad_positions(outputs: Outputs, mask: Tensor | None, positions: int) -> Outputs:
    """Pad token logits ``[B, T, C]`` and features ``[B, T, D]`` with zeros to a number of positions.

    The mask ``[B, T]`` is None if every sequence has all positions.
    """
    count = _count(mask, positions) if mask is not None else _whole(outputs, positions)
    return _map(outputs, count, lambda tensor: F.pad(tensor, (0, 0, 0, positions - count)))


def cut_positions(outputs: Outputs, mask: Tensor | None, positions: int) -> Outputs:
    """Cut outputs that were padded to ``positions`` to the length of the present batch's mask ``[B, T]``."""
    count = _count(mask, positions) if mask is not None else positions
    return _map(outputs, positions, lambda tensor: tensor[:, :count])


def where_counted(outputs: Outputs, mask: Tensor) -> Outputs:
    """Set outputs to zero at the positions that do not count."""
    padding = ~mask.unsqueeze(-1)
    return _map(outputs, mask.shape[1], lambda tensor: tensor.masked_fill(padding, 0))


def _whole(outputs: Outputs, positions: int) -> int:
    """Return the length of outputs without a mask, which must be the whole one."""
    lengths = {tensor.shape[1] for tensor in outputs.tensors() if tensor.dim() == 3}
    if lengths and lengths != {positions}:
        raise ValueError(
            f"RecordedTeacher(positions={positions}) reads sequences of differing length, here of {sorted(lengths)}, and the "
            "batch has no mask [B, T] that says which positions count: name it with BatchFormat(mask_key=…) or lengths_key."
        )
    return positions


def _count(mask: Tensor, positions: int) -> int:
    if mask.dim() != 2:
        raise ValueError(f"RecordedTeacher(positions={positions}) needs a mask [B, T], and it is {list(mask.shape)}.")
    if not bool((mask[:, 0] | ~mask.any(1)).all()):
        raise ValueError(
            "a recorded teacher with `positions` needs the padding at the end of each sequence, and here it is at the "
            "beginning: set the tokenizer's padding_side to 'right'."
        )
    if mask.shape[1] > positions:
        raise ValueError(
            f"a batch has {mask.shape[1]} positions, and RecordedTeacher(positions={positions}) has room for fewer; raise it."
        )
    return mask.shape[1]


def _map(outputs: Outputs, count: int, change: Callable[[Tensor], Tensor]) -> Outputs:
    def of_tokens(tensor: Tensor) -> Tensor:
        return change(tensor) if tensor.dim() == 3 and tensor.shape[1] == count else tensor

    features = {name: of_tokens(feature) for name, feature in outputs.features.items()}
    return replace(
        outputs, logits=of_tokens(outputs.logits) if outputs.has_logits else outputs.logits, features=features
    )
