"""Checks of what trains: that an optimizer holds it, a gradient reaches it, and it moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.doctor.findings import Finding, bug, check, warning
from lit_distill.doctor.observations import TrialFit
from lit_distill.doctor.setup import Setup
from lit_distill.utils.names import listed

_MOST = 4  # tensors that are reported one by one


@check("optimizer", "the optimizers hold all that trains, and nothing else")
def optimizer(trial: TrialFit) -> list[Finding] | None:
    """Bug if a trainable parameter (of a projector, say) is in no optimizer, or a frozen teacher's is in one."""
    seen, found = trial.seen, []
    if not seen.parameters:
        return None
    if seen.unheld:
        found += bug(
            f"parameter {listed(seen.unheld)}",
            f"{len(seen.unheld)} trainable parameters are in no optimizer, and never train.",
            "make the optimizer of every parameter that requires a gradient (self.parameters()), or freeze these.",
        )
    if seen.held_teacher:
        found += bug(
            "the teacher",
            f"is frozen, and {seen.held_teacher} of its parameters are in an optimizer.",
            "take them out of it, or let JointTeacher train the teacher.",
        )
    return found


@check("unregistered", "every tensor that the loss differentiates is a parameter that an optimizer holds")
def unregistered(trial: TrialFit) -> list[Finding] | None:
    """Bug if the loss is differentiated, step after step, with respect to a tensor that is not a parameter, as in a list."""
    seen, found = trial.seen, []
    if not seen.parameters:
        return None
    for leaf in seen.loose[:_MOST]:
        place = _place_of(trial.setup, leaf)
        if place is None and seen.steps < 2:  # it may have been made in the one step that was seen
            continue
        found += bug(
            place or "a tensor of the loss",
            f"the loss is differentiated for a tensor of shape {list(leaf.shape)} that is no parameter of the module: no "
            "optimizer trains it, no device is set for it, and no checkpoint saves it.",
            "make it an nn.Parameter of a criterion or a network; a list of them an nn.ParameterList, of modules an "
            "nn.ModuleList.",
        )
    return found


def _place_of(setup: Setup, leaf: Tensor) -> str | None:
    for name, criterion in setup.criteria.criteria().items():
        path = _path_to(leaf, criterion, name)
        if path is not None:
            return f"criterion {name!r} ({type(criterion).__name__}), {path}"
    path = _path_to(leaf, setup.module, "self")
    return f"{type(setup.module).__name__}, {path}" if path is not None else None


def _path_to(leaf: Tensor, root: nn.Module, name: str) -> str | None:
    """Return the plain attribute that holds a tensor, by itself, in a list or dict, or within a module in one."""
    for path, part in root.named_modules():
        for attribute, value in vars(part).items():
            if attribute.startswith("_"):
                continue
            held = list(value.values()) if isinstance(value, dict) else value
            held = held if isinstance(held, (list, tuple)) else [held]
            inside = [p for one in held if isinstance(one, nn.Module) for p in one.parameters()]
            if any(one is leaf for one in [*held, *inside]):
                return ".".join(step for step in (name, path, attribute) if step)
    return None


@check("reached", "every trainable parameter gets a gradient")
def reached(trial: TrialFit) -> list[Finding] | None:
    """Bug if a criterion's parameter gets no gradient, or only 0. Warning if one of the student does, or if it is frozen."""
    if not trial.seen.parameters or not trial.seen.updates:
        return None
    setup, seen = trial.setup, trial.seen
    criteria = setup.criteria
    waiting = [name for name in criteria.criteria() if not criteria.weights[name] and criteria.trains(name)]
    still = {
        name: setup.criterion_of(name)
        for name, watched in seen.parameters.items()
        # A layer that starts at 0 gives those before it nothing but 0 at the first step.
        if not (watched.pulled if seen.updates > 1 else watched.reached) and name not in seen.unheld
    }
    own = [name for name, criterion in still.items() if criterion is not None and criterion not in waiting]
    # What a criterion that waits for its weight will reach is not known yet.
    others = [name for name, criterion in still.items() if criterion is None and not waiting]
    found = _frozen_layers(setup)
    if own:
        found += bug(
            f"parameter {listed(own)}",
            f"{len(own)} parameters of the criteria got no gradient but 0 in {seen.updates} steps, and stay unchanged.",
            "use them in the value, on tensors with gradients; a projector's output must not be detached.",
        )
    if others:
        found += warning(
            f"parameter {listed(others)}",
            f"{len(others)} trainable parameters got no gradient but 0 in {seen.updates} steps.",
            "add a criterion on the logits, or freeze what is not to be trained: requires_grad_(False).",
        )
    return found


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
    return warning(
        f"parameter {listed(frozen)}",
        f"{len(frozen)} parameters of the criteria are frozen, and stay unchanged.",
        "call requires_grad_(True) on them; if they are fixed on purpose, register_buffer says so.",
    )


@check("moves", "every parameter that gets a gradient moves")
def moves(trial: TrialFit) -> list[Finding] | None:
    """Bug if a parameter gets gradients (more than rounding) and is unchanged after all steps. Warning if its rate is 0.

    Half precision rounds small steps away.
    """
    seen = trial.seen
    if not seen.parameters or not seen.updates:
        return None
    # Lightning ends by moving the module to the CPU, and nothing else.
    at_rest = {n: w for n, w in seen.parameters.items() if torch.equal(w.before.cpu(), w.now.detach().cpu())}
    strongest = max((watched.pull for watched in seen.parameters.values()), default=0.0)
    still = {
        name: watched.now
        for name, watched in at_rest.items()
        # A bias before a normalisation gets 0 but for rounding.
        if watched.pulled and watched.pull >= _rounding(watched.now.dtype) * strongest and name not in seen.unheld
    }
    stopped = [name for name, parameter in still.items() if seen.learning_rates.get(id(parameter), 0.0) == 0]
    rounded = {name: parameter for name, parameter in still.items() if name not in stopped}
    found = []
    if stopped:
        found += warning(
            f"parameter {listed(stopped)}",
            f"{len(stopped)} parameters have the learning rate 0 in all {seen.updates} steps.",
            "check the scheduler: a warm-up by epochs that starts at 0 wastes the first one.",
        )
    if rounded:
        # While the loss scale of float16 is searched for, steps are skipped.
        skipped = trial.precision == "16-mixed" and len(at_rest) == len(seen.parameters)
        found += _unmoved(rounded, seen.updates, skipped)
    return found


def _rounding(dtype: torch.dtype) -> float:
    """Return the share of a gradient that may be nothing but rounding in this type."""
    return 100 * torch.finfo(torch.float32).eps if dtype.itemsize >= 4 else 2 * torch.finfo(dtype).eps


def _unmoved(parameters: dict[str, nn.Parameter], updates: int, skipped: bool) -> list[Finding]:
    half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters.values())
    why = ": in half precision, updates this small are rounded away" if half else ""
    remedy = (
        "train in bf16-mixed, which keeps weights in float32."
        if half
        else "does the optimizer hold these very tensors? Make it after the module is complete, and replace no parameter "
        "afterwards."
    )
    return (warning if skipped else bug)(
        f"parameter {listed(list(parameters))}",
        f"{len(parameters)} parameters got gradients and are what they were after {updates} steps{why}.",
        remedy,
    )
