"""The divergence of two softmaxes over scores that are not class logits: over tokens, positions or a queue."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_kl(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """``KL(softmax(t) || softmax(s))`` over the last dimension, in log space.

    Args:
        student: Scores ``[…, N]``, in float32 or wider.
        teacher: Scores, the same shape.
        mask: True at the entries that count, broadcast to the scores; the others have no probability. Where none
            counts, the divergence is 0.

    Returns:
        ``[…]``.
    """
    if mask is None:
        log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
        return (log_t.exp() * (log_t - log_s)).sum(-1)
    lowest = torch.finfo(student.dtype).min
    log_s, log_t = (scores.masked_fill(~mask, lowest).log_softmax(-1) for scores in (student, teacher))
    gap = (log_t - log_s).masked_fill(~mask, 0)
    return (log_t.exp() * gap).sum(-1)
