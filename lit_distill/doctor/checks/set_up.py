"""Checks of the set-up: that it trains, and what the library warned of."""

from __future__ import annotations

from collections.abc import Sized

from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.observations import Observations, TrialFit
from lit_distill.modules import DistillationModule
from lit_distill.modules.scheduler_lengths import made_for_steps
from lit_distill.utils.names import listed


@check("run", "the set-up trains")
def trains(trial: TrialFit) -> list[Finding]:
    """Bug if the training ends with an error, which is quoted."""
    if trial.error is None:
        return []
    steps = trial.seen.steps
    return bug(
        f"training step {steps + 1}" if steps else "before the end of the first training step",
        f"{type(trial.error).__name__}: {trial.error}",
        "make this run first: what comes after it could not be examined.",
    )


@check("set_up", "nothing in the set-up runs differently from what its user may think")
def set_up(trial: TrialFit) -> list[Finding]:
    """Warning for each warning of the library, and for a schedule made for steps that moves once per epoch.

    The library warns of batch entries that nothing reads, parameters that no criterion trains, labels that look like another
    task's, sample weights that no criterion reads, a student in eval mode, a teacher that returns probabilities, a projector
    at the first group's learning rate, …
    """
    found = _schedules(trial) if trial.error is None else []
    for message in trial.warnings:
        what, _, remedy = message.partition(". ")
        found += warning("the set-up", what, remedy or "check whether this is intended.")
    return found + _student_in_eval_mode(trial.seen)


def _schedules(trial: TrialFit) -> list[Finding]:
    """Find learning-rate schedules that move once per epoch and look made for steps, in the fit as it will be."""
    module, loader, epochs = trial.setup.module, trial.trainer.train_dataloader, trial.epochs
    batches = len(loader) if isinstance(loader, Sized) else 0
    explicit = isinstance(module, DistillationModule) and module.optimization.interval is not None
    if not epochs or epochs < 1 or not batches or explicit:
        return []
    found = []
    for config in trial.trainer.lr_scheduler_configs:
        reason = made_for_steps(config.scheduler, epochs * batches, epochs) if config.interval == "epoch" else None
        if reason is not None:
            found += warning(
                "the learning rate's schedule",
                f"it moves once per epoch, {epochs} times, and {reason}: it looks made for optimizer steps.",
                "set lr_interval='step' (interval: step in a module of your own), or 'epoch' if this is intended.",
            )
    return found


def _student_in_eval_mode(seen: Observations) -> list[Finding]:
    if not seen.student_in_eval:
        return []
    return warning(
        "the student",
        f"is trained with {listed(seen.student_in_eval)} in eval mode: dropout is off there, and BatchNorm neither uses "
        "the batch's statistics nor learns its own.",
        "call train() on the network before the fit (Lightning leaves modes as they are; from_pretrained returns networks "
        "in eval mode), or freeze these parts if this is intended.",
    )
