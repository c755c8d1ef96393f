"""Validation and test of a student inside somebody else's module: the figures that a distillation module logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL, Batch, BatchFormat, tensors_of
from lit_distill.batch.entries import ID_KEYS, INPUT_KEYS, MASK_KEYS, entries_of, names_in
from lit_distill.batch.labels import CLASS_TASKS, Task
from lit_distill.batch.layouts import Layouts
from lit_distill.batch.positions import settle, settled_logits
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.untouched import Guard
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.call_inputs import CallInputs
from lit_distill.capture.call import Call
from lit_distill.capture.calls import CallRecorder, WhichCall, choose_calls
from lit_distill.capture.capture import Capture
from lit_distill.criteria import Criterion, LogitMSE, SoftTarget
from lit_distill.engine import checks
from lit_distill.engine.evaluator import Evaluator
from lit_distill.engine.metrics import count_classes
from lit_distill.teachers import Teacher
from lit_distill.utils.lightning_names import is_overridden
from lit_distill.utils.notices import warn

STEPS = {"val": "validation_step", "test": "test_step"}


def common_task(criteria: Mapping[str, Criterion]) -> Task:
    """The task that the criteria are made for; ``multiclass`` where none says."""
    told = map(checks.task_of, criteria.values())
    return next((task for task in told if task is not None), "multiclass")


def default_criteria(task: Task | None) -> dict[str, Criterion]:
    """What compares the logits where no criteria were given.

    Args:
        task: What they are; None for classes.

    Raises:
        ValueError: The task has no default.
    """
    if task is None or task in CLASS_TASKS:
        return {"soft": SoftTarget(task=task or "multiclass")}
    if task == "none":
        raise ValueError("Distill has no default criteria for the task 'none'; give criteria and weights.")
    return {"soft": LogitMSE()}


class StepEvaluation:
    """Watches the student in ``validation_step`` and ``test_step``, and asks the teacher about the same inputs.

    What cannot be read, or does not fit, is left out and said once; the module's own validation never fails for it.

    Args:
        student: The student's name.
        call: Which of its calls counts, as for ``Distill``.
        batch_format: Where the labels are in a batch, and the logits in an output.
        task: What the logits mean.

    Attributes:
        teacher: What was asked last.
    """

    def __init__(self, student: str, call: WhichCall, batch_format: BatchFormat, task: Task) -> None:
        self._student, self._call, self._format, self._task = student, call, batch_format, task
        self._call_inputs = CallInputs(student)
        self._host = hosting.Host()
        self._listener: CallRecorder | None = None
        self.teacher: Teacher | None = None
        self._evaluator: Evaluator | None = None
        self._parts: tuple[str, ...] = ()
        self._place = ("val", 0, 0)
        self._seen = False
        self._reads_labels = True
        self._reader = BatchReader(batch_format, inputs_are_read=False)
        self._told: set[str] = set()
        self._guard = Guard()

    def begin(
        self,
        module: LightningModule,
        student: nn.Module,
        teacher: Teacher | None,
        parts: tuple[str, ...],
        stage: str,
        layouts: Layouts | None = None,
    ) -> None:
        """Watch an epoch of a stage, ``val`` or ``test``.

        Args:
            module: The user's module.
            student: The network in it.
            teacher: What is asked; None for the student's own figures alone.
            parts: The student's parts, where the module calls these and not itself.
            stage: The stage.
            layouts: Where the student's outputs hold their classes, as a fit has found; None where there was none.
        """
        self.end()
        if "given up" in self._told or not is_overridden(STEPS[stage], module):
            return
        if self._evaluator is None or teacher is not self.teacher:
            self._evaluator, self.teacher = self._new_evaluator(teacher), teacher
        self._seen, self._parts = False, parts
        told = self._format
        capture = Capture(student, (), told.output_key, "student", told.layout, told.class_dim)
        capture.layouts = layouts if layouts is not None else capture.layouts
        self._listener = CallRecorder(capture)
        if parts:
            self._listener.record_parts(parts, known=True)
        self._host.wrap(module, STEPS[stage], self._watch)

    def _new_evaluator(self, teacher: Teacher | None) -> Evaluator:
        return Evaluator(self._task, teacher, setting="Distill(task=…)")

    def at(self, stage: str, loader: int, batch: int) -> None:
        """Be told which batch comes next."""
        self._place = (stage, loader, batch)

    def finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Log the epoch's figures."""
        ready = self._listener is not None and self._evaluator is not None and self._seen
        if trainer.world_size > 1:  # the figures are gathered over all processes, or the others would wait
            ready = trainer.strategy.reduce_boolean_decision(ready, all=True)
        if not ready:
            return
        assert self._evaluator is not None
        try:
            figures = self._evaluator.finish(stage, trainer.sanity_checking)
        except Exception as error:
            self._give_up(error)
            return
        for name, value in figures.items():
            module.log(f"distill/{name}", value, sync_dist=True)

    def end(self) -> None:
        """Leave the module and the student as they were."""
        self._host.unwrap()
        if self._listener is not None:
            self._listener.remove()
            self._listener = None

    def restart(self) -> None:
        """Forget what was left out, for a new run."""
        self._told, self._reads_labels = set(), True
        if self._evaluator is not None:
            self._evaluator.forget()
        self._guard.forget()

    # One batch -----------------------------------------------------------------------------------

    def _watch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        recorder = self._listener
        if recorder is None:
            return original(*args, **kwargs)
        with self._guard.closely_once(self._place[:2]):
            with recorder.record() as calls:
                returned = original(*args, **kwargs)
            if self._evaluator is not None:
                try:
                    self._add(args[0] if args else kwargs.get("batch"), calls)
                except Exception as error:  # the module's own validation is none of our business
                    self._give_up(error)
        return returned

    def _add(self, batch: Any, calls: list[Call]) -> None:
        heard = [call for call in calls if not call.parts or call.parts == self._parts]
        for call in heard:
            call.with_grad = True  # in validation there are none
        chosen = choose_calls(heard, self._call, self._student, STEPS[self._place[0]])
        if not chosen:
            self._tell("call", f"{STEPS[self._place[0]]} does not call the student {self._student!r}")
        given = self._read(batch)
        if given is not None and given.target is None:
            self._warn_of_no_labels(batch, chosen)
        for number, call in enumerate(chosen):
            self._add_call(call, given, number * 10**9)  # places of their own

    def _add_call(self, call: Call, given: Batch | None, offset: int) -> None:
        assert self._listener is not None
        assert self._evaluator is not None
        heard = self._call_inputs.batch(call, given, self.teacher.model if self.teacher is not None else None)
        raw = self._listener.read(call, dry=True, reader=heard.for_teacher)
        data, outputs, _ = settle(heard, self._format, raw, layouts=self._listener.capture.layouts)
        arrange = partial(settled_logits, heard, self._format, raw)
        logits = outputs.logits
        if self._task == "multiclass" and count_classes(logits) < 2:
            self._tell(
                "classes",
                f"the student gives one number ({list(logits.shape)}), which is no choice of a class; "
                "Distill(task=…) says what it is",
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
            self._evaluator = self._new_evaluator(self.teacher)  # what the failed update has begun is left out
            self._evaluator.update(place, logits, replace(data, target=None), arrange=arrange)
            self._without_labels(f"the labels do not fit the student's logits ({type(error).__name__}: {error})")
        self._seen = True

    # What cannot be read -------------------------------------------------------------------------

    def _read(self, batch: Any) -> Batch | None:
        try:
            return self._reader.read(batch)
        except Exception as error:
            self._without_labels(f"the labels cannot be told in a batch ({error})")
            return None

    def _warn_of_no_labels(self, batch: Any, calls: list[Call]) -> None:
        """Say that no entry of a batch has a usual name of labels, where some entry is left that may be them."""
        taken = [tensor for call in calls for tensor in tensors_of(call.inputs)]
        beside = {*MASK_KEYS, *ID_KEYS, *names_in(self._format.unused)}
        entries = entries_of(batch).items()
        found = {name: value for name, value in entries if isinstance(value, Tensor) and name not in beside}
        if len(found) < 2:  # inputs alone, which the step may have changed before the student saw them
            return
        left = [name for name, value in found.items() if not any(value is tensor for tensor in taken)]
        left = [str(name) for name in left if name not in INPUT_KEYS]
        if left and self._format.target_key is None:
            self._tell(
                "labels",
                f"no entry of the batch is called as labels are, and {', '.join(map(repr, left))} may be them"
                "; BatchFormat(target_key=…) names them, if there are any",
            )

    def _fitting(self, target: Any, logits: Tensor, call: Call) -> Tensor | None:
        """The labels, where they are labels of these logits."""
        if target is None:
            return None
        why = _no_labels(target, logits, call, self._task)
        if why is not None:
            self._without_labels(why)
            return None
        assert isinstance(target, Tensor)
        return target

    def _without_labels(self, why: str) -> None:
        self._reads_labels = False
        self._tell("labels", f"{why}; BatchFormat(target_key=…) names them, if there are any")

    def _give_up(self, error: Exception) -> None:
        self._evaluator = None
        self._tell("given up", f"they failed with {type(error).__name__}: {error}")

    def _tell(self, kind: str, why: str) -> None:
        if kind == "labels" and self._task in ("embedding", "none"):  # whose figures need none
            return
        if kind not in self._told:
            self._told.add(kind)
            which = (
                "accuracy and other figures that need labels" if kind == "labels" else "the figures of both networks"
            )
            warn(f"Distill leaves out {which} in validation: {why}. Distill(evaluate=False) computes none.")


def _no_labels(target: Any, logits: Tensor, call: Call, task: Task) -> str | None:
    """Why a batch's labels are none of these logits; None where they may be."""
    if not isinstance(target, Tensor):
        return f"the labels are a {type(target).__name__}, and no tensor"
    for given in tensors_of(call.inputs):
        if given.shape == target.shape and target.dim() > 1 and not target.is_floating_point():
            known = target != IGNORED_LABEL
            if given is not target and bool((given == target)[known].all()):
                return "the labels are the inputs themselves, which the module shifts as it likes"
    if task == "multiclass" and target.is_floating_point():
        rows = target.float().sum(-1) if target.dim() else target
        if (
            target.shape != logits.shape
            or bool((target < 0).any())
            or not torch.allclose(rows, torch.ones_like(rows), atol=1e-3)
        ):
            return (
                f"the labels {list(target.shape)} are numbers, and no classes of {list(logits.shape)} logits: Distill(task=…) "
                "says what the outputs are, such as 'regression'"
            )
    return None
