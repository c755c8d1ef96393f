"""Adds distillation to a LightningModule that knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.balance import Balance
from lit_distill.batch.as_trained import on_device
from lit_distill.batch.batch import Batch, BatchFormat, Inputs, Target, count_samples, given_format, move
from lit_distill.batch.examples import TrainingData, training_data
from lit_distill.batch.labels import TASKS, Task
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.reporting import describe
from lit_distill.callbacks.distill import host as hosting
from lit_distill.callbacks.distill.call_inputs import CallInputs, tokens_that_count
from lit_distill.callbacks.distill.dry_run import run_step_on_copy
from lit_distill.callbacks.distill.evaluation import StepEvaluation, common_task, default_criteria
from lit_distill.callbacks.distill.evaluation_hooks import EvaluationHooks
from lit_distill.callbacks.distill.host_labels import note_on_labels
from lit_distill.callbacks.distill.student_calls import StudentCalls
from lit_distill.callbacks.distill.training_additions import TrainedAdditions
from lit_distill.callbacks.throughput import is_logging_step
from lit_distill.capture.call import Call
from lit_distill.capture.calls import WhichCall, check_call
from lit_distill.capture.capture import is_compiled
from lit_distill.criteria import Criterion
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine import checks
from lit_distill.engine.charts import add_comparison_charts
from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.engine.cleanup import LastCallback, StateBefore
from lit_distill.engine.distiller import Distiller, labels_are_read
from lit_distill.engine.finiteness import finite_gradients, refuse_loss
from lit_distill.engine.named_criteria import check_criteria, check_weights
from lit_distill.engine.settings_record import warn_of_changes
from lit_distill.engine.step import StepLoss
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.files.resuming import guard, naming_file, unguard
from lit_distill.files.saving import save_whole
from lit_distill.preflight.dry_run import DryRun
from lit_distill.preflight.lone_batches import lone_batch
from lit_distill.preflight.networks import check_networks, refuse_empty
from lit_distill.preflight.unfreezing import unfreezes_later
from lit_distill.schedules import Schedule
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_choice, check_flag, check_network, check_sizes, check_text, check_whole
from lit_distill.utils.compiling import see_hooks
from lit_distill.utils.lightning_names import is_overridden
from lit_distill.utils.notices import warn
from lit_distill.utils.plain import make_scalars_plain
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.signals import end_if_terminated, listen, listen_no_more, mark_terminated
from lit_distill.utils.tensors import first_parameter


class Distill(EvaluationHooks):
    """Distils into a network inside any LightningModule, whose code stays as it is.

    In each ``training_step`` it watches the student being called, asks the teacher about the same inputs (after
    whatever the step does to them), and adds the weighted criteria to the loss that the step returns. The
    module's own loss is the criterion ``task``, of weight 1 unless ``weights`` says otherwise. All terms are logged as
    ``distill/...``, and in validation and test what a distillation module logs there: ``distill/val/accuracy/teacher``,
    ``distill/val/agreement`` and so on. Projectors are trained by the module's optimizer and saved in its checkpoints
    under ``lit_distill.``; ``lit_distill.strip`` takes them out again. The teacher is in neither.

    The module and its Trainer may be of ``lightning.pytorch`` or of ``pytorch_lightning``.

    Args:
        teacher: A network, which is then frozen, or a ``Teacher``.
        criteria: Criteria by name; where None, ``soft``: a ``SoftTarget`` of the task's, a ``LogitMSE`` for outputs that are
            no classes.
        weights: A weight for each criterion, and for ``task``; ``task: 0.1`` and ``soft: 0.9`` with the default criterion.
        student: The attribute of the module that holds the student, dots allowed; ``.`` is the module itself, for steps
            that call ``self(inputs)`` or ``self.forward(inputs)``. Where a step calls the student's parts one after
            another (``forward_features`` and ``forward_head``, a backbone and a head), they count as one call.
        call: Which of the student's calls in a step counts, where it is called several times with gradients: 0 is the
            first, -1 the last, ``all`` the mean over all of them.
        schedules: As in ``DistillationModule``; ``task.weight`` too.
        balance: As in ``DistillationModule``.
        batch_format: Where labels or the teacher's own inputs are in a batch, if a criterion or the teacher needs
            them; and the logits in the networks' dict outputs.
        example_inputs: What the student is called with, for a few samples. Needed only where the module's training step
            cannot be run on two samples before the fit.
        parameter_group: Index of the parameter group of the module's first optimizer that trains the projectors; the first
            where None, with a warning where the groups have different learning rates.
        evaluate: Compare student and teacher in the module's validation and test; the teacher runs once for each batch
            there, and a frozen one is asked once per unchanged batch.
        task: What the student's outputs are, as in ``DistillationModule``: for the figures of validation and test, and for
            criteria of another task to be refused. That of the criteria where None, and else ``multiclass``.

    Attributes:
        teacher: As given.
        distiller: The engine; None before the first fit, as the student may be made in the module's ``setup``.

    Raises:
        ValueError: An argument is wrong.
        TypeError: An argument is of another kind: a path for a network, a class for an object.
    """

    def __init__(
        self,
        teacher: nn.Module | Teacher,
        criteria: dict[str, Criterion] | None = None,
        weights: dict[str, float] | None = None,
        student: str = "model",
        call: WhichCall = None,
        schedules: dict[str, Schedule] | None = None,
        balance: Balance | None = None,
        batch_format: BatchFormat | None = None,
        example_inputs: Any = None,
        parameter_group: int | None = None,
        evaluate: bool = True,
        task: Task | None = None,
    ) -> None:
        check_network("teacher", teacher, (Teacher,))
        check_text("student", student, "the name of the network in the module, such as 'model'")
        check_call(call)
        checks.can_be_called(teacher, "teacher")
        default = criteria if criteria is not None else default_criteria(task)
        check_criteria(default)
        if weights is not None:
            check_weights(weights)
        if "task" in default:
            raise ValueError("'task' is the name of the module's own loss; give the criterion another.")
        if task is not None:
            check_choice("task", task, TASKS)
            checks.same_task(default, task, "Distill's")
        start: dict[str, float] = {"task": 0.1, "soft": 0.9} if criteria is None else {"task": 1.0}
        self._task = TaskLoss()
        self.criteria = WeightedCriteria(
            {"task": self._task, **default}, {**start, **(weights or {})}, schedules, balance
        )
        self.student = student
        self.call = call
        self.example_inputs = example_inputs
        self.teacher = teacher
        self._format = given_format(batch_format)
        needed = labels_are_read(self.criteria, teacher, self._format)
        self._reads_batch = needed or self._format.tells_of_batches
        self.distiller: Distiller | None = None
        self._calls = StudentCalls(student, call)
        self._host = hosting.Host()
        self._call_inputs = CallInputs(student)
        group = None if parameter_group is None else check_whole("parameter_group", parameter_group)
        self._trained = TrainedAdditions(group)
        meant = task if task is not None else common_task(self.criteria.criteria())
        self._meant: Task = meant
        numbers = meant == "regression"
        self._reader = BatchReader(self._format, labels_are_read=needed, inputs_are_read=False, numbers=numbers)
        self._evaluation = (
            StepEvaluation(student, call, self._format, meant) if check_flag("evaluate", evaluate) else None
        )
        self._place: torch.device | None = None
        self._warned = False
        self._before = StateBefore()
        self._last_callback = LastCallback(self._leave)
        self._example: Batch | None = None  # until the first batch

    # Before the first batch ----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        save_whole(trainer)
        listen(trainer)
        self._leave(pl_module)  # a run before this one may have ended by an error
        self._before.record(pl_module)
        self._last_callback.join(trainer)
        guard(trainer)
        if self._evaluation is not None:
            self._evaluation.restart()
        if stage != "fit":
            self._host.wrap(pl_module, "on_load_checkpoint", hosting.without_additions)
            return
        hosting.check_host(trainer, pl_module, self)
        if hosting.find(pl_module, self.student) is not None:
            self._attach(trainer, pl_module, set_up=False)
            return
        makers = [name for name in ("setup", "configure_model") if is_overridden(name, pl_module)]
        if not makers:
            raise ValueError(hosting.not_found(pl_module, self.student))
        for name in makers:  # their own hooks, which come after this one, may make the student
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
        self._dry_run(trainer, module, set_up)
        additions = hosting.Additions({"criteria": self.criteria})
        if self.distiller.registered_teacher is not None and student is module:
            raise ValueError(
                "a teacher that changes in training is registered in the module, and student='.' is the whole module: name the "
                f"network in it. {hosting.submodules(module)}"
            )
        if self.distiller.registered_teacher is not None:
            additions["teacher"] = self.distiller.registered_teacher
        hosting.check_strategy(trainer, additions)
        module.add_module(ENTRY_KEY, additions)
        self._host.wrap(module, "training_step", self._training_step(module))
        self._host.wrap(module, "configure_optimizers", self._trained.around_configure_optimizers(module))
        self._host.wrap(module, "on_load_checkpoint", self._on_load_checkpoint(module))

    def _dry_run(self, trainer: Trainer, module: LightningModule, set_up: bool) -> None:
        refuse_empty(trainer, self._active().student, self._network())
        check_networks(self._active().student, self._network())
        samples = training_data(trainer) if self.example_inputs is None else None
        try:
            self._try_example(trainer, module, set_up, samples)
        except Exception as error:  # of a criterion, or a loss, that wants a whole batch
            if samples is None or not self._works_whole(trainer, module, set_up, samples):
                raise error

    def _works_whole(self, trainer: Trainer, module: LightningModule, set_up: bool, samples: TrainingData) -> bool:
        try:
            self._try_example(trainer, module, set_up, samples, whole=True)
        except Exception:
            return False
        return True

    def _try_example(
        self, trainer: Trainer, module: LightningModule, set_up: bool, samples: TrainingData | None, whole: bool = False
    ) -> None:
        distiller = self._active()
        parameter = first_parameter(module)
        self._place = None  # the teacher may be where a fit before this one left it
        self._follow(parameter.device)
        read: list[str] = []
        labels, heard = None, distiller.student
        if samples is None:
            inputs = move(self.example_inputs, parameter.device, parameter.dtype)
            with as_in_evaluation(distiller.student), torch.enable_grad():
                outputs = distiller.capture.dry_run(inputs)
            data = self._call_inputs.batch(Call(inputs, True, None), None, self._network())
            if not is_compiled(module):
                self._calls.expect_parts()
        else:
            done = run_step_on_copy(trainer, module, self._calls.active(), set_up, samples, self._explain, whole)
            loss = hosting.loss_of(done.returned, module) if done.returned is not None else None
            self._task.value = loss.detach() if loss is not None else self._task.value
            call = self._calls.learn(module, done.calls, done.recorder)
            data = self._data(done.batch, call)
            self._example = data if not call.parts else None
            read = describe(done.batch, self._reader) if self._reads_batch else []
            labels = self._labels_beside(done.batch)
            outputs, heard = (
                done.recorder.read(call, data.mask, dry=True, reader=data.for_teacher),
                done.recorder.capture.model,
            )
            if loss is not None and self.criteria.trains("task"):
                hosting.check_trains(loss, module, heard, outputs)
            distiller.capture.overwritten.update(done.recorder.capture.overwritten)
            distiller.capture.layouts = done.recorder.capture.layouts
        extra = distiller.registered_teacher
        later = unfreezes_later(trainer, module)
        with as_in_evaluation(*([extra] if extra is not None else [])), torch.enable_grad():
            DryRun(distiller).run(outputs, data, read=read, labels=labels, made_by=heard, later=later)

    def _explain(self, error: Exception, batch: Any, calls: list[Call]) -> None:
        note_on_labels(error, batch, calls, self._format, self._meant)

    def _labels_beside(self, batch: Any) -> Target | None:
        """The labels of a batch, be they read by a criterion or not; None where they cannot be told."""
        try:
            return BatchReader(self._format, inputs_are_read=False).read(batch).target
        except Exception:  # the module reads its batches itself, whatever they are
            return None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        distiller = self._active()
        hosting.needs_optimizer(trainer, pl_module)
        self._trained.add(next(iter(trainer.optimizers), None), getattr(pl_module, ENTRY_KEY))
        self._follow(pl_module.device)
        distiller.on_fit_start(trainer, pl_module, distiller.reader().read)
        add_comparison_charts(pl_module.loggers)

    def _follow(self, device: torch.device) -> None:
        """Have the teacher where the student is."""
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

    def _training_step(self, module: LightningModule) -> hosting.Wrapper:
        def step(original: Callable[..., Any], batch: Any, *rest: Any) -> Any:
            if not module.trainer.training:  # their validation_step calls it
                return original(batch, *rest)
            self._follow(module.device)  # a learning-rate finder's trial steps come before on_fit_start
            with self._calls.active().record() as calls, self._active().measured.eagerly():
                try:
                    returned = original(batch, *rest)
                except Exception as error:
                    self._explain(error, batch, calls)
                    raise
            chosen = self._calls.choose(module, calls)
            if returned is None or not chosen:
                self._warn_not_called(returned is not None)
                return returned
            self._task.value = hosting.loss_of(returned, module)
            parts = [self._loss_of(batch, call) for call in chosen]
            self._task.value = torch.zeros(())  # the graph must not outlive the step
            total = torch.stack([part.total for part in parts]).mean()
            if not torch.isfinite(total):
                part = next((part for part in parts if not torch.isfinite(part.total)), parts[0])
                networks = self._active().networks()
                refuse_loss(total, part.losses, part.own, module.global_step, Batch(chosen[0].inputs), networks)
            self._log(module, total, parts, count_samples(chosen[0].inputs))
            return {**returned, "loss": total} if isinstance(returned, Mapping) else total

        return step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        finite_gradients(trainer, pl_module, optimizer)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._active().on_before_backward(trainer)

    def _loss_of(self, batch: Any, call: Call) -> StepLoss:
        distiller = self._active()
        data = self._data(batch, call)
        student = self._calls.active().read(call, data.mask, reader=data.for_teacher)
        sides = distiller.sides(student, distiller.run_teacher(data), data)
        with distiller.measuring():
            losses = self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        return distiller.step_loss(losses, sides)

    def _data(self, batch: Any, call: Call) -> Batch:
        """What the student was called with, beside the labels and the teacher's own inputs where those are read."""
        given = self._reader.read(batch) if self._reads_batch else tokens_that_count(batch, call)
        return self._call_inputs.batch(call, given, self._network())

    def _network(self) -> nn.Module | None:
        teacher = self._active().teacher
        return teacher.model if teacher is not None else None

    def _log(self, module: LightningModule, total: Tensor, parts: list[StepLoss], size: int | None) -> None:
        if not (is_logging_step(module.trainer) or module.trainer.should_stop):
            return
        logged = [self._active().logs(part) for part in parts]
        logs = {name: sum(float(one[name]) for one in logged) / len(logged) for name in logged[0]}
        module.log_dict(
            {"distill/loss": total.detach(), **{f"distill/{k}": v for k, v in logs.items()}}, batch_size=size
        )

    def _warn_not_called(self, stepped: bool) -> None:
        if stepped and not self._warned:
            self._warned = True
            warn(
                f"a training step did not call the student {self.student!r} with gradients on: nothing was distilled in it. "
                "Look whether that step is meant to train without the teacher."
            )

    # Checkpoints and the end ---------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.distiller is not None and hasattr(pl_module, ENTRY_KEY):
            self.distiller.checkpoint_entry.write(checkpoint, self.criteria, alone=trainer.interrupted)
            checkpoint[ENTRY_KEY] |= self._trained.note()
        make_scalars_plain(checkpoint)

    def _on_load_checkpoint(self, module: LightningModule) -> hosting.Wrapper:
        def load(original: Callable[..., Any], checkpoint: dict[str, Any]) -> None:
            saved = any(key.startswith(f"{ENTRY_KEY}.") for key in checkpoint.get("state_dict", {}))
            if ENTRY_KEY in checkpoint:
                with naming_file(module.trainer.ckpt_path):
                    self._active().checkpoint_entry.read(checkpoint, self.criteria)
                    self._active().checkpoint_entry.restore_rng(module.trainer, last=False)
                warn_of_changes(self._active().checkpoint_entry.changes(checkpoint))
            elif not saved:
                hosting.check_no_state(getattr(module, ENTRY_KEY))
            original(checkpoint)

        return load

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Distil no more; what was added stays registered until all callbacks were told, as one may save a checkpoint."""
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
        """Give the module back as it was."""
        self._stop_watching()
        self._trained.take_back()
        if isinstance(getattr(module, ENTRY_KEY, None), hosting.Additions):
            delattr(module, ENTRY_KEY)

    def _stop_watching(self) -> None:
        self._task.value = torch.zeros(())  # a step that ended by an error left its graph
        self._host.unwrap()
        if self._evaluation is not None:
            self._evaluation.end()
        self._calls.stop()

    def _active(self) -> Distiller:
        assert self.distiller is not None, "setup comes first"
        return self.distiller
