"""What a record of training steps says of what trains: that it is held, reached, and moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_distill.doctor.findings import Finding, listed
from lit_distill.doctor.record import Record
from lit_distill.modules import DistillationModule

_MOST = 4  # tensors that are told one by one


def parameter_findings(module: DistillationModule, record: Record, precision: str) -> dict[str, list[Finding]]:
    """The checks of what trains, and what they found."""
    found = {"optimizer": _optimizer(record), "unregistered": _loose(module, record)}
    if record.updates:
        found["reached"] = _reached(module, record)
        found["moves"] = _moves(module, record, precision)
    return found


def _optimizer(record: Record) -> list[Finding]:
    found = []
    if record.unheld:
        found.append(
            Finding(
                "optimizer",
                "bug",
                f"parameter {listed(record.unheld)}",
                f"{len(record.unheld)} trainable parameters are in no optimizer, and never train.",
                "make the optimizer of every parameter of the module that requires a gradient (self.parameters()), or freeze "
                "these.",
            )
        )
    if record.held_teacher:
        found.append(
            Finding(
                "optimizer",
                "bug",
                "the teacher",
                f"is frozen, and {record.held_teacher} of its parameters are in an optimizer.",
                "take them out of it, or let JointTeacher train the teacher.",
            )
        )
    return found


def _loose(module: DistillationModule, record: Record) -> list[Finding]:
    found = []
    for leaf in record.loose[:_MOST]:
        place = _place_of(module.criteria.criteria(), leaf)
        found.append(
            Finding(
                "unregistered",
                "bug",
                place or "a tensor of the loss",
                f"the loss is differentiated for a tensor of shape {list(leaf.shape)} that is no parameter of the module: no "
                "optimizer trains it, no device is set for it, and no checkpoint saves it.",
                "make it an nn.Parameter of a criterion or a network; a list of them an nn.ParameterList, of modules an "
                "nn.ModuleList.",
            )
        )
    return found


def _place_of(criteria: Mapping[str, nn.Module], leaf: Tensor) -> str | None:
    """Where a tensor is kept in plain attributes, lists and modules in lists."""
    for name, criterion in criteria.items():
        for path, part in criterion.named_modules():
            for attribute, value in vars(part).items():
                held = (
                    value if isinstance(value, (list, tuple)) else list(value.values()) if _is_dict(value) else [value]
                )
                inside = [p for one in held if isinstance(one, nn.Module) for p in one.parameters()]
                if not attribute.startswith("_") and any(one is leaf for one in [*held, *inside]):
                    owner = f"{name}.{path}" if path else name
                    return f"criterion {name!r} ({type(criterion).__name__}), {owner}.{attribute}"
    return None


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _reached(module: DistillationModule, record: Record) -> list[Finding]:
    criteria = module.criteria
    waiting = [name for name in criteria.criteria() if not criteria.weights[name] and criteria.trains(name)]
    still = [
        name
        for name, watched in record.parameters.items()
        # A layer that starts at 0 gives those before it nothing but 0 at the first step.
        if not (watched.pulled if record.updates > 1 else watched.reached) and name not in record.unheld
    ]
    own = [name for name in still if _criterion_of(name) is not None and _criterion_of(name) not in waiting]
    others = [name for name in still if _criterion_of(name) is None]
    frozen = [
        f"criteria.{name}.{parameter}"
        for name, criterion in criteria.criteria().items()
        if criteria.trains(name)
        for parameter, value in criterion.named_parameters()
        if not value.requires_grad
    ]
    found = []
    if frozen:
        found.append(
            Finding(
                "reached",
                "warning",
                f"parameter {listed(frozen)}",
                f"{len(frozen)} parameters of the criteria are frozen, and stay as they were drawn.",
                "call requires_grad_(True) on them; where they are fixed on purpose, register_buffer says so.",
            )
        )
    if own:
        found.append(
            Finding(
                "reached",
                "bug",
                f"parameter {listed(own)}",
                f"{len(own)} parameters of the criteria got no gradient but 0 in {record.updates} steps, and stay as they were "
                "drawn.",
                "use them in the value, on tensors with gradients; a projector's output must not be detached.",
            )
        )
    if others and not waiting:
        found.append(
            Finding(
                "reached",
                "warning",
                f"parameter {listed(others)}",
                f"{len(others)} trainable parameters got no gradient but 0 in {record.updates} steps.",
                "add a criterion on the logits, or freeze what is not to be trained: requires_grad_(False).",
            )
        )
    return found


def _criterion_of(parameter: str) -> str | None:
    """The criterion that a parameter's name is within, or None."""
    parts = parameter.split(".")
    return parts[1] if parts[0] == "criteria" and parts[1] != "balance" else None


def _moves(module: DistillationModule, record: Record, precision: str) -> list[Finding]:
    named = dict(module.named_parameters())
    still = [
        name
        for name, watched in record.parameters.items()
        if watched.pulled and name not in record.unheld and torch.equal(watched.before, named[name].detach())
    ]
    if not still:
        return []
    stopped = [name for name in still if record.learning_rates.get(id(named[name]), 0.0) == 0]
    rounded = [name for name in still if name not in stopped]
    found = []
    if stopped:
        found.append(
            Finding(
                "moves",
                "warning",
                f"parameter {listed(stopped)}",
                f"{len(stopped)} parameters have the learning rate 0 in all {record.updates} steps.",
                "look at the scheduler: a warm-up by epochs that starts at 0 wastes the first one.",
            )
        )
    if rounded:
        half = any(named[name].dtype in (torch.float16, torch.bfloat16) for name in rounded)
        skipped = precision == "16-mixed" and len(still) == len(record.parameters)  # while the loss scale is found
        found.append(
            Finding(
                "moves",
                "warning" if skipped else "bug",
                f"parameter {listed(rounded)}",
                f"{len(rounded)} parameters got gradients and are what they were after {record.updates} steps"
                f"{': in half precision, updates this small are rounded away' if half else ''}.",
                "train in bf16-mixed, which keeps weights in float32."
                if half
                else "does the optimizer hold these very "
                "tensors? Make it after the module is complete, and replace no parameter afterwards.",
            )
        )
    return found
