"""What is wrong with the labels of somebody else's training step: their own loss says it in PyTorch's words alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.labels import CLASS_TASKS, Task, read_labels
from lit_distill.batch.reading import BatchReader
from lit_distill.capture.call import Call
from lit_distill.outputs import logits_or_reason


def note_on_labels(error: Exception, batch: Any, calls: list[Call], format_: BatchFormat, task: Task) -> None:
    """Add to an error of a training step what labels do not fit the student's logits, where that is so.

    Args:
        error: What the step raised.
        batch: What it was given.
        calls: The student's calls in it.
        format_: What the user told of batches.
        task: What the student's outputs are.
    """
    if task not in CLASS_TASKS or not calls or isinstance(error, FloatingPointError):
        return
    try:
        target: Any = BatchReader(format_, inputs_are_read=False).read(batch).target
        logits = logits_or_reason(calls[-1].raw, format_.output_key, "student")
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            return
        if not isinstance(target, Tensor):
            error.add_note(f"the labels of the batch are a {type(target).__name__}, no tensor")
            return
    except Exception:  # the module reads its batches itself, whatever they are
        return
    try:
        read_labels(target, logits, task)
    except ValueError as why:
        error.add_note(f"of the labels, {why}")
