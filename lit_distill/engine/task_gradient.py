"""The gradient of the criteria without a teacher, for an optimizer that needs it separately (``DOT``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lit_distill.engine.auto_weights import AutoWeights
from lit_distill.engine.step import Losses
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.optim.dot import DOT
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.lightning_names import keeps_parameters_whole
from lit_distill.utils.measuring import gradients_of


def check_apart(trainer: Trainer, criteria: WeightedCriteria) -> None:
    """Refuse, before the first batch, a set-up in which ``DOT``, if it trains, cannot have the two gradients separately.

    Weights that are found in training then allow for its two momenta.
    """
    optimizer = _find(trainer)
    if isinstance(criteria.balance, AutoWeights):
        criteria.balance.remember(_memories(optimizer, criteria) if optimizer is not None else {})
    if optimizer is None:
        return
    trained = {name: c.needs_teacher for name, c in criteria.criteria().items() if criteria.trains(name)}
    if len(set(trained.values())) == 1:
        all_need = all(trained.values())
        raise ValueError(
            "DOT has one momentum for the criteria that need a teacher and another for those that need none, and the "
            f"criteria that train ({', '.join(trained)}) {'all need one' if all_need else 'need none'}: add "
            f"{'HardTarget' if all_need else 'SoftTarget'}, or use torch.optim.SGD."
        )
    if trainer.gradient_clip_val:
        raise ValueError(
            "DOT splits a gradient into the task's and the teacher's, and the Trainer clips it before: what is cut off would "
            "count as the teacher's. Leave gradient_clip_val out, or use torch.optim.SGD."
        )
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(
            f"the Trainer's precision {trainer.precision} scales the loss, and leaves out steps whose gradients overflow; DOT "
            "computes the task's gradient unscaled, where it may vanish in half precision. Use bf16-mixed or 32-true."
        )
    if not keeps_parameters_whole(trainer.strategy):
        raise ValueError(
            f"DOT needs whole gradients, and {type(trainer.strategy).__name__} shards them; use one device or DDP."
        )
    optimizer.drop()


def hold_task_gradient(trainer: Trainer, criteria: WeightedCriteria, losses: Sequence[Losses]) -> None:
    r"""Hand a training step's task gradient to ``DOT``, if it trains.

    Called once per training step, before the backward pass, with the losses of each call of the student; none if nothing was
    distilled. If only one of the two kinds of criteria has a loss, the gradient is not split: all of it goes with the
    momentum $\mu$.
    """
    optimizer = _find(trainer)
    if optimizer is None:
        return
    task, taught = (_total(criteria, losses, needs_teacher) for needs_teacher in (False, True))
    both: list[torch.nn.Parameter] = []
    if task is not None and taught is not None:
        reached = _leaves(taught)
        both = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad and p in reached]
    if task is None or not both:
        optimizer.hold({})
        return
    with torch.autocast(task.device.type, enabled=False):
        share = task / (len(losses) * trainer.accumulate_grad_batches)
        gradients = gradients_of(share, both, "DOT")
    optimizer.hold({p: gradient for p, gradient in zip(both, gradients, strict=True) if gradient is not None})


def splits_gradients(trainer: Trainer) -> bool:
    """Return True if ``DOT`` trains, so that each training step is differentiated twice."""
    return _find(trainer) is not None


def _memories(optimizer: DOT, criteria: WeightedCriteria) -> dict[str, float]:
    task, taught = optimizer.memories()
    return {name: taught if criterion.needs_teacher else task for name, criterion in criteria.criteria().items()}


def _find(trainer: Trainer) -> DOT | None:
    return next((optimizer for optimizer in trainer.optimizers if isinstance(optimizer, DOT)), None)


def _total(criteria: WeightedCriteria, losses: Sequence[Losses], needs_teacher: bool) -> Tensor | None:
    """Return the weighted sum of the terms that need a teacher, or that need none; None without such terms."""
    kinds = {name: criterion.needs_teacher for name, criterion in criteria.criteria().items()}
    terms = [
        batch.weights[name] * value
        for batch in losses
        for name, value in batch.terms.items()
        if kinds[name] is needs_teacher and value.requires_grad
    ]
    return torch.stack(terms).sum() if terms else None


def _leaves(value: Tensor) -> set[Tensor]:
    """Return the tensors in which a value's backward pass would accumulate gradients."""
    return {node.variable for node in nodes_behind([value]) if node.name().endswith("AccumulateGrad")}
