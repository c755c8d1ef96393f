"""Checks of the arguments, the optimizers and the processes before the first batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lit_distill.balance import Balance, MeasuredNorms
from lit_distill.batch.batch import Target
from lit_distill.batch.labels import CLASS_TASKS, TASKS, Task
from lit_distill.criteria import Criterion, FeatureCriterion
from lit_distill.engine.auto_weights import AutoWeights
from lit_distill.engine.named_criteria import check_criteria, innermost
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.teachers import Teacher
from lit_distill.utils.arguments import check_choice, check_network
from lit_distill.utils.graph import unreached_parameters
from lit_distill.utils.lightning_names import has_forward, is_a, keeps_parameters_whole
from lit_distill.utils.names import listed
from lit_distill.utils.notices import warn
from lit_distill.utils.tensors import count_parameters, parameters_in

_LONG = 2.5  # times the gradient of the labels: from where on a learning rate that suits these is likely to be too high


def module_arguments(
    student: nn.Module, teacher: nn.Module | Teacher | None, criteria: Mapping[str, Criterion], task: Task
) -> None:
    """Check the types of a distillation's main arguments, and that every criterion is for its task."""
    check_choice("task", task, TASKS)
    check_criteria(criteria)
    same_task(criteria, task)
    check_network("student", student)
    can_be_called(student, "student")
    if teacher is not None:
        check_network("teacher", teacher, (Teacher,))
    can_be_called(teacher, "teacher")


def same_task(criteria: Mapping[str, Criterion], task: Task, whose: str = "the module's") -> None:
    """Refuse a criterion made for another task than the module's."""
    for name, criterion in criteria.items():
        found = task_of(criterion)
        if task == "none" or found is None or found == task:
            continue
        without = task not in CLASS_TASKS and found in CLASS_TASKS
        remedy = (
            " Outputs that are no classes are compared by LogitMSE; task='none' takes any criteria." if without else ""
        )
        raise ValueError(
            f"criterion {name!r} ({_kind(criterion)}) is for the task {found!r}, and {whose} task is {task!r}; give "
            f"both the same.{remedy}"
        )


def task_of(criterion: Criterion) -> Task | None:
    """Return the task that a criterion, or the one that it wraps, is for; None if it is for any."""
    inner = criterion.wrapped
    return task_of(inner) if criterion.task is None and inner is not None else criterion.task


def no_teacher_needed(criteria: WeightedCriteria) -> None:
    """Refuse criteria that need a teacher, for a distillation without one."""
    needing = [name for name, criterion in criteria.criteria().items() if criterion.needs_teacher]
    if needing:
        raise ValueError(
            f"{', '.join(map(repr, needing))} compare{'s' * (len(needing) == 1)} the student with a teacher, and there is "
            "none: give a teacher, or leave them out."
        )


def can_be_called(network: nn.Module | Teacher | None, owner: str) -> None:
    """Refuse a network without a ``forward``: a LightningModule whose steps call its parts, a ``ModuleDict``."""
    network = network.network if isinstance(network, Teacher) else network
    if not isinstance(network, nn.Module) or has_forward(network):
        return
    parts = [name for name, child in network.named_children() if has_forward(child) and count_parameters(child)]
    shown = f"such as module.{parts[0]}" if parts else "which has a forward"
    rest = f" (it has {', '.join(parts)})" if len(parts) > 1 else ""
    raise ValueError(
        f"the {owner} {type(network).__name__} has no forward of its own, so it cannot be called; give the network inside "
        f"it, {shown}{rest}."
    )


def separate_networks(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that shares parameters with the student: freezing one would freeze the other."""
    known = {id(parameter): name for name, parameter in student.named_parameters()}
    shared = [known[id(parameter)] for parameter in teacher.parameters() if id(parameter) in known]
    # After `load_state_dict(…, assign=True)` two networks share memory: training one would train both.
    places = {_place(parameter): name for name, parameter in student.named_parameters() if parameter.requires_grad}
    shared = shared or [
        places[place] for place in map(_place, teacher.parameters()) if place is not None and place in places
    ]
    if shared:
        raise ValueError(
            f"the teacher shares {len(shared)} parameters with the student ({shared[0]}, …); give the teacher a copy: "
            "copy.deepcopy(student)."
        )


def _place(tensor: Tensor) -> tuple[torch.device, int] | None:
    """Return where a tensor's values are; None if it has none of its own (lazy, on ``meta``, sparse, sharded)."""
    if is_lazy(tensor):
        return None
    try:
        place = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return None
    return (tensor.device, place) if place else None


def optimizers_hold_everything(module: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Refuse optimizers that lack a trainable parameter, projectors included: it would silently never train."""
    made = [one for one in optimizers if type(one).__name__ != "_MockOptimizer"]  # Lightning's, for none
    held = parameters_in(made)
    missing = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in held]
    if missing and not made:
        raise ValueError(
            f"there is no optimizer: {type(module).__name__}.configure_optimizers returned none, and {len(missing)} trainable "
            "parameters need one. Return one, or leave configure_optimizers to the module."
        )
    if missing:
        raise ValueError(
            f"{len(missing)} trainable parameters are in no optimizer: {listed(missing)}. "
            "Make the optimizer of every parameter that requires a gradient, or freeze these with requires_grad_(False)."
        )


def every_parameter_reached(loss: Tensor, module: LightningModule, criteria: WeightedCriteria) -> None:
    """Warn of trainable parameters that no criterion trains.

    Raises:
        ValueError: There are some, and DDP without ``find_unused_parameters`` would wait for them.
    """
    if not loss.requires_grad:
        return
    unreached = unreached_parameters(loss, module)
    if not unreached:
        return
    names = listed(unreached)
    strategy: Any = module.trainer.strategy
    if is_a(strategy, "strategies.DDPStrategy") and not strategy._ddp_kwargs.get("find_unused_parameters", False):
        raise ValueError(
            f"no criterion trains {names}, which DDP does not allow. Add a "
            "criterion on the logits, freeze them, or set trainer.strategy to 'ddp_find_unused_parameters_true'."
        )
    waiting = any(criteria.trains(name) and not criteria.weights[name] for name in criteria.criteria())
    if not waiting:
        warn(
            f"no criterion trains {names} ({len(unreached)} parameters of {type(module).__name__}): they do not change. "
            "Freeze them with requires_grad_(False), or add a criterion that reads their outputs."
        )


def same_on_every_rank(module: LightningModule, digest: str) -> None:
    """Refuse processes with different teachers: DDP does not synchronise a frozen one."""
    if module.trainer.world_size == 1:
        return
    mine = torch.tensor(list(bytes.fromhex(digest)), device=module.device)
    everyone = module.all_gather(mine)
    if not isinstance(everyone, Tensor) or not bool((everyone == mine).all()):
        raise ValueError(
            "the processes have different teachers: load its weights from a file, or seed before it is made."
        )


def whole_gradients(trainer: Trainer, balance: Balance | None) -> None:
    """Refuse strategies that shard parameters if gradients are measured."""
    if isinstance(balance, MeasuredNorms) and not keeps_parameters_whole(trainer.strategy):
        raise ValueError(
            f"weights are found from the norms of whole gradients, and {type(trainer.strategy).__name__} shards them; use one "
            "device or DDP, or give every criterion a number as its weight."
        )


def warn_of_long_steps(trainer: Trainer, criteria: WeightedCriteria) -> None:
    """Warn if found weights lengthen the gradient, and the optimizer's steps with it, next to labels with a fixed weight."""
    if not isinstance(criteria.balance, AutoWeights) or criteria.shared:
        return
    aims = sum(criteria.aims[name] for name in criteria.balance.found if criteria.trains(name))
    longer = 1 + criteria.strength * aims
    plain = any(isinstance(optimizer, torch.optim.SGD) for optimizer in trainer.optimizers)
    if plain and longer > _LONG:
        labels = " and ".join(criteria.balance.reference)
        warn(
            f"the weight of {labels} is a number, so what is found comes on top of it: a gradient up to {longer:.3g} times as "
            f"long, and so are SGD's steps. Leave the weight of {labels} out as well (the whole then keeps the length that "
            f"it has by {labels} alone), or lower the learning rate."
        )


def logits_are_read(criteria: WeightedCriteria, student: Outputs, teacher: Outputs, target: Target | None) -> bool:
    """Return True if a criterion reads the teacher's logits: run copies of all on an example without them, and compare."""
    if not teacher.has_logits:
        return False
    if not teacher.features or any(criterion.compares_logits for criterion in criteria.criteria().values()):
        return True
    found = []
    for outputs in (teacher, replace(teacher, logits=teacher.logits.new_zeros(0))):
        try:
            with torch.no_grad(), isolate_rng():
                found.append(copy.deepcopy(criteria)(student, outputs, target).raw)
        except Exception:  # a criterion that needs the logits
            return True
    return any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def _kind(criterion: Criterion) -> str:
    """Return the name of a criterion's class, and that of a criterion that it wraps."""
    inner, name = criterion.wrapped, type(criterion).__name__
    return f"{name}({_kind(inner)})" if inner is not None else name


def summary(
    student_model: nn.Module,
    teacher: Teacher | None,
    criteria: WeightedCriteria,
    student: Outputs,
    teacher_outputs: Outputs,
) -> str:
    """Summarise the distillation in a few lines: sizes, criteria and their layer pairs."""
    size = count_parameters(student_model)
    lines = [f"Student: {type(student_model).__name__}, {size:,} parameters."]
    if teacher is not None:
        size_t = count_parameters(teacher.model)
        sizes = f" {size_t:,} parameters ({size_t / max(size, 1):.1f} times as many)," if size_t else ""
        lines.append(f"Teacher: {teacher.name},{sizes} {teacher.role}.")
    for name, criterion in criteria.criteria().items():
        plans = {key.partition(".")[2]: plan for key, plan in criteria.schedules.items() if key.startswith(f"{name}.")}
        found = name in criteria.found and criteria.trains(name)
        number = "found in training" if found else f"{criteria.in_force()[name]:g}"
        weight = "" if "weight" in plans and not found else f", weight {number}"
        changes = "".join(
            f", times {plan}" if found and setting == "weight" else f", {setting} {plan}"
            for setting, plan in plans.items()
        )
        layers = ", layers found" if innermost(criterion).found_layers is not None else ""
        lines.append(f"Criterion {name}: {_kind(criterion)}{weight}{changes}{layers}.")
        if isinstance(criterion, FeatureCriterion):
            for layer_s, layer_t in criterion.pairs:
                shape_s, shape_t = student.features[layer_s].shape, teacher_outputs.features[layer_t].shape
                lines.append(f"    {layer_s} {list(shape_s[1:])} -> {layer_t} {list(shape_t[1:])}")
        elif layers and criterion.teacher_layers:
            lines.append(f"    {', '.join(criterion.student_layers)} -> {', '.join(criterion.teacher_layers)}")
    if criteria.balance is not None and not criteria.found:
        lines.append(f"Balance: {type(criteria.balance).__name__} sets the weights in force.")
    return "\n".join(lines)
