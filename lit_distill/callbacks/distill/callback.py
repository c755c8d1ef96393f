"""The callback that adds distillation to a LightningModule of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.balance import Balance
from lit_distill.batch.as_trained import on_device
from lit_distill.batch.batch import Batch, BatchFormat, Inputs, given_format
from lit_distill.batch.labels import Task
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.defaults import common_task, weighted_criteria
from lit_distill.callbacks.distill.evaluation import StepEvaluation
from lit_distill.callbacks.distill.evaluation_hooks import EvaluationHooks
from lit_distill.callbacks.distill.example import ExampleRun
from lit_distill.callbacks.distill.step_reader import StepReader
from lit_distill.callbacks.distill.student_calls import StudentCalls
from lit_distill.callbacks.distill.training_additions import TrainedAdditions
from lit_distill.callbacks.distill.training_step import DistilledStep
from lit_distill.capture.calls import WhichCall, check_call
from lit_distill.capture.capture import is_compiled
from lit_distill.criteria import Criterion
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine import checks
from lit_distill.engine.charts import add_comparison_charts
from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.engine.cleanup import LastCallback, StateBefore
from lit_distill.engine.distiller import Distiller, labels_are_read
from lit_distill.engine.finiteness import finite_gradients
from lit_distill.engine.named_criteria import Weight
from lit_distill.files.resuming import guard, unguard
from lit_distill.files.saving import save_whole
from lit_distill.preflight.dry_run import DryRun
from lit_distill.preflight.lone_batches import lone_batch
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_flag, check_network, check_sizes, check_text
from lit_distill.utils.compiling import see_hooks
from lit_distill.utils.lightning_names import is_overridden
from lit_distill.utils.signals import end_if_terminated, listen, listen_no_more, mark_terminated


class Distill(EvaluationHooks):
    """Distils into a network inside any LightningModule, without changes of its code.

    In each ``training_step`` it records the student's call, runs the teacher on the same inputs (as the step has changed
    them), and adds the weighted criteria to the step's loss. The module's own loss is the criterion ``task``, with weight 1
    unless ``weights`` sets it. All terms are logged as ``distill/...``; so are, in validation and test, the metrics of a
    distillation module: ``distill/val/accuracy/teacher``, ``distill/val/agreement`` and so on. The module's optimizer trains
    the projectors, and its checkpoints hold them under ``lit_distill.``; ``lit_distill.strip`` removes them. The teacher is in
    neither.

    The module and its Trainer may come from ``lightning.pytorch`` or ``pytorch_lightning``.

    Args:
        teacher: A network, which is then frozen, or a ``Teacher``.
        criteria: Criteria by name. If None, ``soft``: a ``SoftTarget``, or a ``LogitMSE`` for outputs that are not classes.
        weights: A weight for each criterion, and for ``task``; found in training if ``auto`` or left out of your ``criteria``;
            ``task: 0.1`` and ``soft: 0.9`` for the default criterion.
        student: The attribute of the module that holds the student, dots allowed; ``.`` is the module itself, for steps
            that call ``self(inputs)`` or ``self.forward(inputs)``. If a step calls the student's parts one after another
            (``forward_features`` and ``forward_head``, a backbone and a head), they count as one call.
        call: The call to distil if a step calls the student several times with gradients: 0 is the first, -1 the last,
            ``all`` the mean over all of them.
        schedules: Values that change during training, by key: ``task.weight``, ``soft.weight``, ``soft.temperature``.
        balance: Finds the weights during training; ``weights`` stay fixed if None.
        batch_format: Names of the entries of a batch that hold labels or the teacher's own inputs, if a criterion or the
            teacher needs them, and of the logits in dict outputs.
        example_inputs: The student's inputs for a few samples, if the module's step fails on two samples before the fit.
        parameter_group: Index of the parameter group of the module's first optimizer that trains the projectors; the first
            if None, with a warning if the groups have different learning rates.
        evaluate: Compare student and teacher in the module's validation and test. The teacher runs once per batch there, a
            frozen one once per unchanged batch.
        task: What the student's outputs are: ``multiclass``, ``binary``, ``multilabel``, ``regression``, ``embedding`` or
            ``none``. If None, the task of the criteria, or else ``multiclass``.
        strength: Multiplies the weight of every criterion that needs a teacher; 0 turns it off.

    Attributes:
        teacher: The argument.
        distiller: The distillation; None before the first fit, as the student may be made in the module's ``setup``.

    Raises:
        ValueError: An argument is wrong.
        TypeError: An argument has the wrong type: a path for a network, a class for an object.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> distill = Distill(nn.Linear(4, 3), student="model")
        >>> distill.criteria.weights
        {'task': 0.1, 'soft': 0.9}
        >>> trainer = Trainer(callbacks=[distill], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        teacher: nn.Module | Teacher,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, Weight] | None = None,
        student: str = "model",
        call: WhichCall = None,
        schedules: dict[str, Schedule] | None = None,
        balance: Balance | None = None,
        batch_format: BatchFormat | None = None,
        example_inputs: Any = None,
        parameter_group: int | None = None,
        evaluate: bool = True,
        task: Task | None = None,
        strength: float = 1.0,
    ) -> None:
        check_network("teacher", teacher, (Teacher,))
        check_text("student", student, "the name of the network in the module, such as 'model'")
        check_call(call)
        checks.can_be_called(teacher, "teacher")
        self._task = TaskLoss()
        self.criteria = weighted_criteria(self._task, criteria, weights, schedules, balance, task, strength)
        self.student = student
        self.call = call
        self.example_inputs = example_inputs
        self.teacher = teacher
        self._format = given_format(batch_format)
        self.distiller: Distiller | None = None
        self._calls = StudentCalls(student, call)
        self._host = hosting.Host()
        self._trained = TrainedAdditions(parameter_group)
        meant = task if task is not None else common_task(self.criteria.criteria())
        self._reader = StepReader(student, self._format, meant, labels_are_read(self.criteria, teacher, self._format))
        self._evaluation = StepEvaluation(student, call, self._format, meant, check_flag("evaluate", evaluate))
        self._place: torch.device | None = None
        self._before = StateBefore()
        self._last_callback = LastCallback(self._leave)
        self._example: Batch | None = None  # until the first batch

    # Before the first batch ----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save_whole(trainer)
        listen(trainer)
        self._leave(pl_module)  # the last run may have ended with an error
        self._before.record(pl_module)
        self._last_callback.join(trainer)
        guard(trainer)
        self._evaluation.restart()
        if stage != "fit":
            self._host.wrap(pl_module, "on_load_checkpoint", hosting.without_additions(pl_module))
            return
        hosting.check_host(trainer, pl_module, self)
        if hosting.find(pl_module, self.student) is not None:
            self._attach(trainer, pl_module, set_up=False)
            return
        makers = [name for name in ("setup", "configure_model") if is_overridden(name, pl_module)]
        if not makers:
            raise ValueError(hosting.not_found(pl_module, self.student))
        for name in makers:  # the module's own hooks, which run after this one, may make the student
            self._host.wrap(pl_module, name, self._attach_after(trainer, pl_module, last=name == makers[-1]))

    def _attach_after(self, trainer: Trainer, module: LightningModule, last: bool) -> hosting.Wrapper:
        def make(original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            if self._calls.recorder is not None:
                return
            if hosting.find(module, self.student) is not None:
                self._attach(trainer, module, set_up=True)
            elif last:
                raise ValueError(hosting.not_found(module, self.student))

        return make

    def _attach(self, trainer: Trainer, module: LightningModule, set_up: bool) -> None:
        student = hosting.find(module, self.student)
        assert student is not None
        if self.distiller is not None and self.distiller.student is not student:
            raise ValueError(
                "this Distill has trained with another student, whose projectors and statistics its criteria still hold; make "
                "a new Distill for this one."
            )
        if self.distiller is None:
            check_sizes("student", student)
            hosting.check_teacher(module, student, self.teacher)
            self.distiller = Distiller(student, self.teacher, self.criteria, self._format)
        else:
            self.distiller.capture.restore()
        self._calls.start(self.distiller.capture)
        if is_compiled(module) or getattr(module, "_compiler_ctx", None) is not None:
            see_hooks()
        self._place = None  # the teacher may be where an earlier fit left it
        run = ExampleRun(self.distiller, self._calls, self._reader, self._task, self._follow)
        self._example = run.run(trainer, module, set_up, self.example_inputs)
        self._register(trainer, module, self.distiller)

    def _register(self, trainer: Trainer, module: LightningModule, distiller: Distiller) -> None:
        additions = hosting.Additions({"criteria": self.criteria})
        joint = distiller.registered_teacher
        if joint is not None and distiller.student is module:
            raise ValueError(
                "a teacher that changes in training is registered in the module, and student='.' is the whole module: name the "
                f"network in it. {hosting.submodules(module)}"
            )
        if joint is not None:
            additions["teacher"] = joint
        hosting.check_strategy(trainer, additions)
        module.add_module(ENTRY_KEY, additions)
        step = DistilledStep(distiller, self._calls, self._reader, self._task, self._follow)
        self._host.wrap(module, "training_step", step.of(module))
        self._host.wrap(module, "configure_optimizers", self._trained.around_configure_optimizers(module))
        self._host.wrap(module, "on_load_checkpoint", hosting.with_additions(module, distiller))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        distiller = self._active()
        hosting.needs_optimizer(trainer, pl_module)
        self._trained.add(next(iter(trainer.optimizers), None), getattr(pl_module, ENTRY_KEY))
        self._follow(pl_module.device)
        distiller.on_fit_start(trainer, pl_module, distiller.reader().read)
        add_comparison_charts(pl_module.loggers)

    def _follow(self, device: torch.device) -> None:
        """Move the teacher to the student's device."""
        if device != self._place:
            self._place = device
            self._active().move(lambda tensor: tensor.to(device))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reader = self._active().reader()

        def read(batch: Any) -> Inputs:
            return reader.read(on_device(trainer, pl_module, batch, pl_module.device)).for_teacher

        self._active().on_train_start(trainer, read)

    # One batch -----------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and self._example is not None:
            example, self._example = self._example, None
            why = lone_batch(trainer)
            if why is not None:
                DryRun(self._active()).refuse_lone_batch(why, example)
        self._active().on_train_batch_start(trainer, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._active().on_train_batch_end(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        finite_gradients(trainer, pl_module, optimizer)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._active().on_before_backward(trainer)

    # Checkpoints and the end ---------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.distiller is not None and hasattr(pl_module, ENTRY_KEY):
            self.distiller.checkpoint_entry.write(checkpoint, self.criteria, this_rank_only=trainer.interrupted)
            checkpoint[ENTRY_KEY] |= self._trained.checkpoint_entry()
        hosting.complete_checkpoint(pl_module, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop distilling; additions stay registered until all callbacks have run, as one may save a checkpoint."""
        mark_terminated(trainer, exception)
        unguard(trainer)
        self._stop_watching()
        if self.distiller is not None:
            self.distiller.release()
        self._before.restore(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active().on_fit_end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        unguard(trainer)
        self._leave(pl_module)
        self._last_callback.leave(trainer)
        self._before.forget()
        listen_no_more(trainer)
        end_if_terminated(trainer)

    def _leave(self, module: LightningModule) -> None:
        """Restore the module."""
        self._stop_watching()
        self._trained.take_back()
        if isinstance(getattr(module, ENTRY_KEY, None), hosting.Additions):
            delattr(module, ENTRY_KEY)

    def _stop_watching(self) -> None:
        self._task.value = torch.zeros(())  # a step that ended with an error has left its graph
        self._host.unwrap()
        self._evaluation.end()
        self._calls.stop()

    def _active(self) -> Distiller:
        assert self.distiller is not None, "setup comes first"
        return self.distiller
