"""Checks for NaN and infinity: before the first batch, in each loss, and in the gradients before each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.batch.batch import Batch, Target, positions_and_names, tensors_of
from lit_distill.criteria import Criterion
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.step import Losses
from lit_distill.outputs import Outputs
from lit_distill.utils.lightning_names import keeps_parameters_whole
from lit_distill.utils.names import listed
from lit_distill.utils.restoring import unchanged
from lit_distill.utils.tensors import not_finite

_ADVICE = "Look at the learning rate, the inputs, and the precision."


# Before the first batch --------------------------------------------------------------------------


def example_is_finite(
    values: Mapping[str, Tensor],
    criteria: Mapping[str, Criterion],
    data: Batch,
    networks: Mapping[str, tuple[nn.Module, Outputs]],
    target: Target | None,
) -> None:
    """Refuse a criterion whose value for an example is not finite, and say why.

    Inputs and outputs that are not finite are accepted if every criterion is finite: masks added to scores, the logits of
    excluded classes.
    """
    wrong = {name: value for name, value in values.items() if not bool(torch.isfinite(value.detach()).all())}
    if not wrong:
        return
    name, value = next(iter(wrong.items()))
    kind = "the training step's own loss" if isinstance(criteria[name], TaskLoss) else type(criteria[name]).__name__
    cause = cause_of(data, networks, target) or _in_outputs(networks)
    cause = cause or "the outputs of both networks are finite, so the criterion itself makes it"
    raise ValueError(
        f"criterion {name!r} ({kind}) is {float(value.detach())} before anything has been trained: {cause}."
    )


def cause_of(
    data: Batch | None, networks: Mapping[str, tuple[nn.Module, Outputs | None]], target: Target | None = None
) -> str | None:
    """Describe what is not finite among the inputs of a loss; return None if all are.

    Networks come with their outputs, by ``student`` or ``teacher``; without outputs, their weights are checked. The labels
    are those of the batch if ``target`` is None.
    """
    read: dict[str, Any] = {}
    if data is not None:
        labels = target if target is not None else data.target
        read = {"inputs": data.inputs, "teacher's inputs": data.teacher_inputs, "labels": labels}
    for what, value in read.items():
        found = _first_of(value, torch.isnan)
        if found:
            hint = "; if NaN marks unknown labels, set BatchFormat(missing_label=float('nan'))"
            return f"the {what} hold NaN{found}{hint * (what == 'labels')}"
    for owner, (network, outputs) in networks.items():
        if outputs is None or not _finite(outputs):
            found = not_finite(network)
            if found:
                return f"the {owner} {type(network).__name__} {found}"
    blown = any(outputs is not None and not _finite(outputs) for _, outputs in networks.values())
    for what, value in read.items():
        found = _first_of(value, torch.isinf) if blown or what == "labels" else None
        if found:
            return f"the {what} hold infinity{found}"
    return None


def _in_outputs(networks: Mapping[str, tuple[nn.Module, Outputs]]) -> str | None:
    for owner, (network, outputs) in networks.items():
        named = {**({"logits": outputs.logits} if outputs.has_logits else {}), **outputs.features}
        for name, tensor in named.items():
            if not bool(torch.isfinite(tensor.detach()).all()):
                layer = "its logits" if name == "logits" and outputs.has_logits else f"its layer {name!r}"
                what = "NaN" if bool(tensor.detach().isnan().any()) else "infinity"
                return f"the {owner} {type(network).__name__} makes {what} in {layer} of finite weights and inputs without NaN"
    return None


def _finite(outputs: Outputs) -> bool:
    return all(bool(torch.isfinite(tensor.detach()).all()) for tensor in outputs.tensors())


def _first_of(value: Any, test: Callable[[Tensor], Tensor]) -> str | None:
    """Name the first entry and sample among inputs or labels with NaN or infinity; None if there is none."""
    positional, named = positions_and_names(value)
    for name, entry in (*((None, one) for one in positional), *named.items()):
        for tensor in tensors_of(entry):
            if not tensor.is_floating_point() or tensor.layout != torch.strided:
                continue
            rows = test(tensor.detach())
            rows = rows.flatten(1).any(1) if rows.dim() > 1 else rows.reshape(-1)
            if bool(rows.any()):
                which = f", sample {int(rows.nonzero()[0])} of {len(rows)}"
                return f"{f' in {name!r}' if name is not None else ''}{which}"
    return None


# In each batch -----------------------------------------------------------------------------------


def refuse_loss(
    total: Tensor,
    losses: Losses,
    own: Tensor | None,
    step: int,
    data: Batch | None = None,
    networks: Mapping[str, nn.Module] | None = None,
) -> None:
    """Stop a fit before a loss that is not finite reaches the weights.

    Args:
        total: The loss, NaN or infinite.
        losses: The criteria's losses.
        own: The teacher's own loss, or None.
        step: Number of optimizer steps so far.
        data: The batch, to find the cause.
        networks: Networks by ``student`` or ``teacher``, to find the cause.
    """
    total = total.detach()
    blamed = [f"{name!r} is {float(value)}" for name, value in losses.raw.items() if not torch.isfinite(value)]
    if own is not None and not torch.isfinite(own):
        blamed.append(f"the teacher's own loss is {float(own)}")
    what = "; ".join(blamed) or "the weighted sum overflowed"
    head = f"the loss is {float(total)} at step {step}: {what}."
    for owner, network in (networks or {}).items():
        found = not_finite(network)
        if found and not (data is not None and cause_of(data, {})):
            trained = owner == "student" and step > 0
            late = " An earlier step applied a gradient that was not: continue from the last checkpoint." * trained
            raise FloatingPointError(f"{head} The {owner} {found}.{late} {_ADVICE}")
    cause = cause_of(data, {}) if data is not None else None
    reason = f" In this batch {cause}." if cause else ""
    raise FloatingPointError(f"{head}{reason} The weights are those of the step before. {_ADVICE}")


# Before each step --------------------------------------------------------------------------------


def finite_gradients(
    trainer: Any, module: nn.Module, optimizer: Optimizer, blame: Callable[[], str | None] | None = None
) -> None:
    """Stop a fit before a gradient that is not finite reaches the weights: a finite loss may have one.

    Only gradients on the CPU are checked: elsewhere a check would wait for the device, and the next loss shows the error. With
    a gradient scaler (16-mixed), which skips such steps itself, nothing is checked.

    ``blame`` names the criterion in a sentence, if a gradient is not finite.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients or gradients[0].device.type != "cpu" or not keeps_parameters_whole(trainer.strategy):
        return
    if getattr(trainer.precision_plugin, "scaler", None) is not None or _all_finite(gradients):
        return
    found = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    wrong = [name for name, gradient in found if not bool(torch.isfinite(_dense(gradient)).all())]
    if not wrong:  # a norm overflowed
        return
    from_criterion = blame() if blame is not None else None
    raise FloatingPointError(
        f"the loss is finite at step {trainer.global_step}, and its gradient is not, for {len(wrong)} parameters: "
        f"{listed(wrong)}.{f' {from_criterion}.' if from_criterion else ''} The weights are those before this step. "
        f"Look for a root, a logarithm or a norm at 0 in what the criteria and the student compute. {_ADVICE}"
    )


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    norms = torch._foreach_norm([_dense(one) for one in gradients])
    return not norms or bool(torch.isfinite(torch.stack(norms).sum()))


def _dense(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.layout == torch.sparse_coo else gradient


def blamed_criterion(distiller: Distiller, data: Batch) -> str | None:
    """Run a batch once more, and name the criteria whose gradient is not finite in a sentence; None if there is none."""
    criteria = distiller.criteria
    with unchanged(*distiller.networks().values(), criteria), torch.enable_grad():
        criteria.eval()
        student = distiller.capture.run(data.inputs)
        sides = distiller.sides(student, distiller.run_teacher(data), data)
        terms = criteria(sides.student, sides.teacher, sides.target, sides.parameters).terms
        return _not_finite_through(terms, criteria.criteria(), distiller.student.parameters())


def _not_finite_through(
    terms: Mapping[str, Tensor], criteria: Mapping[str, Criterion], parameters: Iterable[nn.Parameter]
) -> str | None:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = []
    for name, value in terms.items():
        if value.requires_grad and trained:
            gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
            if not _all_finite([one for one in gradients if one is not None]):
                found.append(f"{name!r} ({type(criteria[name]).__name__})")
    return f"It is that of {' and '.join(found)}" if found else None
