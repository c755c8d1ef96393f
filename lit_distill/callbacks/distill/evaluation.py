"""Validation and test of a student inside the user's module, with the metrics of a distillation module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL, Batch, BatchFormat, tensors_of
from lit_distill.batch.entries import ID_KEYS, INPUT_KEYS, MASK_KEYS, entries_of, names_in
from lit_distill.batch.labels import Task
from lit_distill.batch.layouts import Layouts
from lit_distill.batch.positions import settle, settled_logits
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.untouched import Guard
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.call_inputs import CallInputs
from lit_distill.capture.call import Call
from lit_distill.capture.calls import CallRecorder, WhichCall, choose_calls
from lit_distill.capture.capture import Capture
from lit_distill.engine.evaluator import Evaluator
from lit_distill.engine.metrics import count_classes
from lit_distill.teachers import Teacher
from lit_distill.utils.lightning_names import is_overridden
from lit_distill.utils.notices import warn

STEPS = {"val": "validation_step", "test": "test_step"}


class StepEvaluation:
    """Records the student in ``validation_step`` and ``test_step``, and runs the teacher on the same inputs.

    Batches that cannot be read are left out with one warning; the module's own validation never fails because of them.
    Nothing is recorded if ``on`` is False.
    """

    def __init__(self, student: str, call: WhichCall, batch_format: BatchFormat, task: Task, on: bool) -> None:
        self.on = on
        self._student, self._call, self._format, self._task = student, call, batch_format, task
        self._call_inputs = CallInputs(student)
        self._host = hosting.Host()
        self._recorder: CallRecorder | None = None
        self.teacher: Teacher | None = None  # of the last evaluation
        self._evaluator: Evaluator | None = None
        self._parts: tuple[str, ...] = ()
        self._place = ("val", 0, 0)
        self._seen = False
        self._reads_labels = True
        self._reader = BatchReader(batch_format, inputs_are_read=False)
        self._reported: set[str] = set()
        self._guard = Guard()

    def begin(
        self,
        module: LightningModule,
        student: nn.Module,
        teacher: Teacher | None,
        parts: tuple[str, ...],
        stage: str,
        layouts: Layouts | None,
    ) -> None:
        """Start an epoch of a stage; ``parts`` are the student's, if the module calls these and not the student."""
        self.end()
        if "given up" in self._reported or not is_overridden(STEPS[stage], module):
            return
        if self._evaluator is None or teacher is not self.teacher:
            self._evaluator, self.teacher = self._new_evaluator(teacher), teacher
        self._seen, self._parts = False, parts
        layout = self._format
        capture = Capture(student, (), layout.output_key, "student", layout.layout, layout.class_dim)
        capture.layouts = layouts if layouts is not None else capture.layouts
        self._recorder = CallRecorder(capture)
        if parts:
            self._recorder.record_parts(parts, known=True)
        self._host.wrap(module, STEPS[stage], self._watch)

    def _new_evaluator(self, teacher: Teacher | None) -> Evaluator:
        return Evaluator(self._task, teacher, setting="Distill(task=…)")

    def at(self, stage: str, loader: int, batch: int) -> None:
        """Called before each batch with its place."""
        self._place = (stage, loader, batch)

    def finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Log the epoch's metrics."""
        ready = self._recorder is not None and self._evaluator is not None and self._seen
        if self.on and trainer.world_size > 1:  # metrics are gathered over all processes, or the others would wait
            ready = trainer.strategy.reduce_boolean_decision(ready, all=True)
        if not ready:
            return
        assert self._evaluator is not None
        try:
            metrics = self._evaluator.finish(stage, trainer.sanity_checking)
        except Exception as error:
            self._give_up(error)
            return
        for name, value in metrics.items():
            module.log(f"distill/{name}", value, sync_dist=True)

    def end(self) -> None:
        """Restore the module and the student."""
        self._host.unwrap()
        if self._recorder is not None:
            self._recorder.remove()
            self._recorder = None

    def restart(self) -> None:
        """Prepare for a new run."""
        self._reported, self._reads_labels = set(), True
        if self._evaluator is not None:
            self._evaluator.forget()
        self._guard.forget()

    # One batch -----------------------------------------------------------------------------------

    def _watch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        recorder = self._recorder
        if recorder is None:
            return original(*args, **kwargs)
        with self._guard.closely_once(self._place[:2]):
            with recorder.record() as calls:
                returned = original(*args, **kwargs)
            if self._evaluator is not None:
                try:
                    self._add(args[0] if args else kwargs.get("batch"), calls)
                except Exception as error:  # the module's own validation must not fail
                    self._give_up(error)
        return returned

    def _add(self, batch: Any, calls: list[Call]) -> None:
        usable = [call for call in calls if not call.parts or call.parts == self._parts]
        for call in usable:
            call.with_grad = True  # validation has no gradients
        chosen = choose_calls(usable, self._call, self._student, STEPS[self._place[0]])
        if not chosen:
            self._warn("call", f"{STEPS[self._place[0]]} does not call the student {self._student!r}")
        given = self._read(batch)
        if given is not None and given.target is None:
            self._warn_of_no_labels(batch, chosen)
        for number, call in enumerate(chosen):
            self._add_call(call, given, number * 10**9)  # places of their own

    def _add_call(self, call: Call, given: Batch | None, offset: int) -> None:
        assert self._recorder is not None
        assert self._evaluator is not None
        whole = self._call_inputs.batch(call, given, self.teacher.model if self.teacher is not None else None)
        raw = self._recorder.read(call, dry=True, reader=whole.for_teacher)
        data, outputs, _ = settle(whole, self._format, raw, layouts=self._recorder.capture.layouts)
        arrange = partial(settled_logits, whole, self._format, raw)
        logits = outputs.logits
        if self._task == "multiclass" and count_classes(logits) < 2:
            self._warn(
                "classes",
                f"the student gives one number ({list(logits.shape)}), which is no choice of a class; "
                "Distill(task=…) sets what it is",
            )
            return
        stage, loader, batch = self._place
        place = (stage, loader, batch + offset)
        target = self._fitting(data.target, logits, call) if self._reads_labels else None
        data = replace(data, target=target)
        try:
            self._evaluator.update(place, logits, data, arrange=arrange)
        except Exception as error:
            if target is None:
                raise
            self._evaluator = self._new_evaluator(self.teacher)  # without the failed update
            self._evaluator.update(place, logits, replace(data, target=None), arrange=arrange)
            self._without_labels(f"the labels do not fit the student's logits ({type(error).__name__}: {error})")
        self._seen = True

    # What cannot be read -------------------------------------------------------------------------

    def _read(self, batch: Any) -> Batch | None:
        try:
            return self._reader.read(batch)
        except Exception as error:
            self._without_labels(f"the labels of a batch cannot be read ({error})")
            return None

    def _warn_of_no_labels(self, batch: Any, calls: list[Call]) -> None:
        """Warn that no entry of a batch has a usual name of labels, if some other entry may be them."""
        taken = [tensor for call in calls for tensor in tensors_of(call.inputs)]
        others = {*MASK_KEYS, *ID_KEYS, *names_in(self._format.unused)}
        entries = entries_of(batch).items()
        found = {name: value for name, value in entries if isinstance(value, Tensor) and name not in others}
        if len(found) < 2:  # only inputs, which the step may have changed before it called the student
            return
        left = [name for name, value in found.items() if not any(value is tensor for tensor in taken)]
        left = [str(name) for name in left if name not in INPUT_KEYS]
        if left and self._format.target_key is None:
            self._warn(
                "labels",
                f"no entry of the batch has a usual name of labels, and {', '.join(map(repr, left))} may be them"
                "; BatchFormat(target_key=…) names them, if there are any",
            )

    def _fitting(self, target: Any, logits: Tensor, call: Call) -> Tensor | None:
        """Return the labels if they fit these logits."""
        why = _no_labels(target, logits, call, self._task) if target is not None else None
        if why is not None:
            self._without_labels(why)
            return None
        assert target is None or isinstance(target, Tensor)
        return target

    def _without_labels(self, why: str) -> None:
        self._reads_labels = False
        self._warn("labels", f"{why}; BatchFormat(target_key=…) names them, if there are any")

    def _give_up(self, error: Exception) -> None:
        self._evaluator = None
        self._warn("given up", f"they failed with {type(error).__name__}: {error}")

    def _warn(self, kind: str, why: str) -> None:
        if kind == "labels" and self._task in ("embedding", "none"):  # whose metrics need none
            return
        if kind not in self._reported:
            self._reported.add(kind)
            which = (
                "accuracy and other metrics that need labels" if kind == "labels" else "the metrics of both networks"
            )
            warn(f"Distill leaves out {which} in validation: {why}. Distill(evaluate=False) computes none.")


def _no_labels(target: Any, logits: Tensor, call: Call, task: Task) -> str | None:
    """Return the reason why a batch's labels do not fit the logits; None if they may."""
    if not isinstance(target, Tensor):
        return f"the labels are a {type(target).__name__}, not a tensor"
    for given in tensors_of(call.inputs):
        if given.shape == target.shape and target.dim() > 1 and not target.is_floating_point():
            known = target != IGNORED_LABEL
            if given is not target and bool((given == target)[known].all()):
                return "the labels are the inputs themselves, which the module may shift"
    if task == "multiclass" and target.is_floating_point():
        rows = target.float().sum(-1) if target.dim() else target
        if (
            target.shape != logits.shape
            or bool((target < 0).any())
            or not torch.allclose(rows, torch.ones_like(rows), atol=1e-3)
        ):
            return (
                f"the labels {list(target.shape)} are numbers, not classes of {list(logits.shape)} logits: Distill(task=…) "
                "sets what the outputs are, such as 'regression'"
            )
    return None
