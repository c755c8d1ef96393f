"""What a record of training steps says of what trains: that it is held, reached, and moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.doctor.findings import Finding, Severity
from lit_distill.doctor.record import Record
from lit_distill.doctor.setup import Setup
from lit_distill.utils.names import listed

_MOST = 4  # tensors that are told one by one


def parameter_findings(setup: Setup, record: Record, precision: str) -> dict[str, list[Finding]]:
    """The checks of what trains, and what they found."""
    found = {"optimizer": _optimizer(record), "unregistered": _loose(setup, record)}
    if record.updates:
        found["reached"] = _reached(setup, record)
        found["moves"] = _moves(record, precision)
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


def _loose(setup: Setup, record: Record) -> list[Finding]:
    found = []
    for leaf in record.loose[:_MOST]:
        place = _place_of(setup, leaf)
        if place is None and record.steps < 2:  # it may have been made in the one step that was seen
            continue
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


def _place_of(setup: Setup, leaf: Tensor) -> str | None:
    """Where a tensor is kept, in a criterion or elsewhere in the module."""
    for name, criterion in setup.criteria.criteria().items():
        path = _path_to(leaf, criterion, name)
        if path is not None:
            return f"criterion {name!r} ({type(criterion).__name__}), {path}"
    path = _path_to(leaf, setup.module, "self")
    return f"{type(setup.module).__name__}, {path}" if path is not None else None


def _path_to(leaf: Tensor, root: nn.Module, name: str) -> str | None:
    """The plain attribute that holds a tensor, by itself, in a list or dict, or within a module in one."""
    for path, part in root.named_modules():
        for attribute, value in vars(part).items():
            if attribute.startswith("_"):
                continue
            held = value if isinstance(value, (list, tuple)) else list(value.values()) if _is_dict(value) else [value]
            inside = [p for one in held if isinstance(one, nn.Module) for p in one.parameters()]
            if any(one is leaf for one in [*held, *inside]):
                return ".".join(step for step in (name, path, attribute) if step)
    return None


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _reached(setup: Setup, record: Record) -> list[Finding]:
    criteria = setup.criteria
    waiting = [name for name in criteria.criteria() if not criteria.weights[name] and criteria.trains(name)]
    still = _without_gradient(record)
    own = [name for name in still if setup.criterion_of(name) is not None and setup.criterion_of(name) not in waiting]
    # What a criterion that waits for its weight will reach is not known yet.
    others = [name for name in still if setup.criterion_of(name) is None and not waiting]
    return [*_frozen_layers(setup), *_unused_layers(own, record), *_unused_others(others, record)]


def _without_gradient(record: Record) -> list[str]:
    """Names of the parameters that an optimizer holds and no gradient but 0 has reached."""
    return [
        name
        for name, watched in record.parameters.items()
        # A layer that starts at 0 gives those before it nothing but 0 at the first step.
        if not (watched.pulled if record.updates > 1 else watched.reached) and name not in record.unheld
    ]


def _frozen_layers(setup: Setup) -> list[Finding]:
    frozen = [
        f"{setup.criteria_path}.{name}.{parameter}"
        for name, criterion in setup.criteria.criteria().items()
        if setup.criteria.trains(name)
        for parameter, value in criterion.named_parameters()
        if not value.requires_grad
    ]
    if not frozen:
        return []
    return [
        Finding(
            "reached",
            "warning",
            f"parameter {listed(frozen)}",
            f"{len(frozen)} parameters of the criteria are frozen, and stay as they were drawn.",
            "call requires_grad_(True) on them; where they are fixed on purpose, register_buffer says so.",
        )
    ]


def _unused_layers(names: list[str], record: Record) -> list[Finding]:
    if not names:
        return []
    return [
        Finding(
            "reached",
            "bug",
            f"parameter {listed(names)}",
            f"{len(names)} parameters of the criteria got no gradient but 0 in {record.updates} steps, and stay as they were "
            "drawn.",
            "use them in the value, on tensors with gradients; a projector's output must not be detached.",
        )
    ]


def _unused_others(names: list[str], record: Record) -> list[Finding]:
    if not names:
        return []
    return [
        Finding(
            "reached",
            "warning",
            f"parameter {listed(names)}",
            f"{len(names)} trainable parameters got no gradient but 0 in {record.updates} steps.",
            "add a criterion on the logits, or freeze what is not to be trained: requires_grad_(False).",
        )
    ]


def _moves(record: Record, precision: str) -> list[Finding]:
    # Lightning ends by moving the module to the CPU, and nothing else.
    at_rest = {n: w for n, w in record.parameters.items() if torch.equal(w.before.cpu(), w.now.detach().cpu())}
    strongest = max((watched.pull for watched in record.parameters.values()), default=0.0)
    still = {
        name: watched.now
        for name, watched in at_rest.items()
        # A bias before a normalisation gets 0 but for rounding.
        if watched.pulled and watched.pull >= _rounding(watched.now.dtype) * strongest and name not in record.unheld
    }
    stopped = [name for name, parameter in still.items() if record.learning_rates.get(id(parameter), 0.0) == 0]
    rounded = {name: parameter for name, parameter in still.items() if name not in stopped}
    skipped = precision == "16-mixed" and len(at_rest) == len(record.parameters)  # while the loss scale is found
    return [*_no_rate(stopped, record), *_unmoved(rounded, record, "warning" if skipped else "bug")]


def _rounding(dtype: torch.dtype) -> float:
    """The share of a gradient that may be nothing but rounding in this type."""
    return 100 * torch.finfo(torch.float32).eps if dtype.itemsize >= 4 else 2 * torch.finfo(dtype).eps


def _no_rate(names: list[str], record: Record) -> list[Finding]:
    if not names:
        return []
    return [
        Finding(
            "moves",
            "warning",
            f"parameter {listed(names)}",
            f"{len(names)} parameters have the learning rate 0 in all {record.updates} steps.",
            "look at the scheduler: a warm-up by epochs that starts at 0 wastes the first one.",
        )
    ]


def _unmoved(parameters: dict[str, nn.Parameter], record: Record, severity: Severity) -> list[Finding]:
    if not parameters:
        return []
    half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters.values())
    return [
        Finding(
            "moves",
            severity,
            f"parameter {listed(list(parameters))}",
            f"{len(parameters)} parameters got gradients and are what they were after {record.updates} steps"
            f"{': in half precision, updates this small are rounded away' if half else ''}.",
            "train in bf16-mixed, which keeps weights in float32."
            if half
            else "does the optimizer hold these very "
            "tensors? Make it after the module is complete, and replace no parameter afterwards.",
        )
    ]
