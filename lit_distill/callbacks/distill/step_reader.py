"""Reads the batches of another module's training step, together with its calls of the student."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lit_distill.batch.batch import Batch, BatchFormat, Target
from lit_distill.batch.labels import CLASS_TASKS, Task, read_labels
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.reporting import describe
from lit_distill.callbacks.distill.call_inputs import CallInputs, tokens_that_count
from lit_distill.capture.call import Call
from lit_distill.outputs import logits_or_reason


class StepReader:
    """Combines a batch and a call of the student to the batch that the teacher and the criteria read."""

    def __init__(self, student: str, format_: BatchFormat, task: Task, reads_labels: bool) -> None:
        self._format, self._task = format_, task
        self._reads_batch = reads_labels or format_.tells_of_batches
        numbers = task == "regression"
        self._reader = BatchReader(format_, labels_are_read=reads_labels, inputs_are_read=False, numbers=numbers)
        self._call_inputs = CallInputs(student)

    def read(self, batch: Any, call: Call, teacher: nn.Module | None) -> Batch:
        """Return the student's inputs, with the labels and the teacher's own inputs if these are read."""
        given = self._reader.read(batch) if self._reads_batch else tokens_that_count(batch, call)
        return self._call_inputs.batch(call, given, teacher)

    def read_inputs(self, inputs: Any, teacher: nn.Module | None) -> Batch:
        """Return a batch without labels."""
        return self._call_inputs.batch(Call(inputs, True, None), None, teacher)

    def describe(self, batch: Any) -> list[str]:
        """Return lines that say what is read of a batch."""
        return describe(batch, self._reader) if self._reads_batch else []

    def labels(self, batch: Any) -> Target | None:
        """Return the labels of a batch, even if no criterion reads them; None if they are unknown."""
        try:
            return BatchReader(self._format, inputs_are_read=False).read(batch).target
        except Exception:  # the module reads its batches itself, and they may have any form
            return None

    def explain(self, error: Exception, batch: Any, calls: list[Call]) -> None:
        """Add a note to an error of a training step if its labels do not fit the student's logits."""
        if self._task not in CLASS_TASKS or not calls or isinstance(error, FloatingPointError):
            return
        target = self.labels(batch)
        try:
            logits = logits_or_reason(calls[-1].raw, self._format.output_key, "student")
        except Exception:  # of the user's function
            return
        if target is None or not isinstance(logits, Tensor) or logits.dim() != 2:
            return
        if not isinstance(target, Tensor):
            error.add_note(f"the labels of the batch are a {type(target).__name__}, not a tensor")
            return
        try:
            read_labels(target, logits, self._task)
        except ValueError as why:
            error.add_note(f"of the labels, {why}")
