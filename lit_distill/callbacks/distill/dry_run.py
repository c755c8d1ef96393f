"""Runs one training step of the user's module on a copy before the fit; the module itself does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lit_distill.batch.as_trained import in_weights_type, networks_of, on_device, training_step_context
from lit_distill.batch.examples import TrainingData
from lit_distill.batch.snapshots import comparing_values
from lit_distill.capture.call import Call
from lit_distill.capture.calls import CallRecorder
from lit_distill.capture.capture import is_compiled
from lit_distill.preflight.input_types import explain_input_type
from lit_distill.utils.compiling import call_own_methods
from lit_distill.utils.copying import copied
from lit_distill.utils.lightning_names import is_module, is_overridden
from lit_distill.utils.restoring import unchanged
from lit_distill.utils.tensors import first_parameter


@dataclass
class ObservedStep:
    """The inputs and results of a training step."""

    batch: Any  # on the module's device
    calls: list[Call]
    returned: Any
    recorder: CallRecorder  # the copy's, to read the calls with


def run_step_on_copy(
    trainer: Trainer,
    module: LightningModule,
    recorder: CallRecorder,
    set_up: bool,
    data: TrainingData,
    explain: Callable[[Exception, Any, list[Call]], None],
    whole: bool = False,
) -> ObservedStep:
    """Run the module's training step on a copy, on two samples; on a whole batch if two fail.

    If the module's own ``setup`` has not run (``set_up``), the copy's is called. ``explain`` adds a note to an error, from the
    batch and the student's calls.
    """
    with isolate_rng(), torch.compiler.set_stance("force_eager"):
        try:
            return _run(trainer, module, recorder, set_up, _on_device(trainer, module, data.example(whole)), explain)
        except Exception:  # an assertion on the batch's size, a state of a fixed shape, …
            batch = _on_device(trainer, module, data.example(whole=True))
        try:
            return _run(trainer, module, recorder, set_up, batch, explain)
        except Exception as error:
            reason = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
            why = explain_input_type(error, batch, first_parameter(module))
            if why is not None:
                raise ValueError(f"{type(module).__name__}.training_step failed before the fit: {why}") from error
            raise ValueError(
                f"{type(module).__name__}.training_step failed on a batch before the fit, in Distill's dry run "
                f"({reason}). If it does work in a fit, give Distill `example_inputs`: the student's inputs "
                "for a few samples."
            ) from error


def _on_device(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """Take a batch the way that Lightning takes it to the training step."""
    if batch is None:
        raise ValueError("the training data are a stream, and the fit continues from a checkpoint")
    weights = first_parameter(module)
    with unchanged(*networks_of(trainer, module)):
        return in_weights_type(trainer, on_device(trainer, module, batch, weights.device), weights)


def _run(
    trainer: Trainer,
    module: LightningModule,
    recorder: CallRecorder,
    set_up: bool,
    batch: Any,
    explain: Callable[[Exception, Any, list[Call]], None],
) -> ObservedStep:
    # Copied together, so that the copied recorder records the copied student.
    twin, recorder = copied((module, recorder))
    if not is_compiled(module) and getattr(module, "_compiler_ctx", None) is None:
        recorder.record_parts()  # on the copy only: on the module it would cost time in each step
    call_own_methods(twin)
    parameter = first_parameter(module)
    twin.to(parameter.device)  # Lightning pretends the final device during setup
    twin.trainer = trainer
    with _logging_nothing(trainer, twin):
        if not set_up and is_overridden("setup", twin):
            twin.setup("fit")
        with (
            recorder.capture.observed(),
            comparing_values(),
            recorder.record() as calls,
            training_step_context(trainer),
        ):
            takes_index = is_param_in_hook_signature(twin.training_step, "batch_idx", min_args=2)
            try:
                returned = twin.training_step(batch, 0) if takes_index else twin.training_step(batch)
            except Exception as error:
                explain(error, batch, calls)
                raise
    return ObservedStep(batch, calls, returned, recorder)


@contextmanager
def _logging_nothing(trainer: Trainer, twin: LightningModule) -> Iterator[None]:
    for module in twin.modules():
        if is_module(module):
            vars(module)["log"] = vars(module)["log_dict"] = _nothing
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass
