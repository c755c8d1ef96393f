"""What is checked before the first batch, and the loss at every batch."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.batch import Target, tensors_of
from lit_distill.criteria import Criterion, FeatureCriterion
from lit_distill.labels import CLASS_TASKS, Task
from lit_distill.layout import usual_channel_dim
from lit_distill.lightning_names import has_forward, is_a
from lit_distill.notices import tell
from lit_distill.outputs import Outputs
from lit_distill.probe import count_parameters, unreached_parameters
from lit_distill.teachers import Teacher
from lit_distill.weighted import Losses, WeightedCriteria


def same_task(criteria: Mapping[str, Criterion], task: Task, whose: str = "the module's") -> None:
    """Refuse a criterion made for another task than the module's.

    Args:
        criteria: By name.
        task: What the outputs are.
        whose: Who was given the task, for the message.

    Raises:
        ValueError: A criterion's task differs.
    """
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
    """The task that a criterion is for, or the one that it wraps; None where it is for any."""
    found: Task | None = getattr(criterion, "task", None)
    inner = getattr(criterion, "criterion", None)
    return task_of(inner) if found is None and isinstance(inner, Criterion) else found


def no_teacher_needed(criteria: WeightedCriteria) -> None:
    """Refuse criteria that read a teacher's outputs where there is no teacher.

    Raises:
        ValueError: One does.
    """
    needing = [name for name, criterion in criteria.criteria().items() if criterion.needs_teacher]
    if needing:
        raise ValueError(
            f"{', '.join(map(repr, needing))} compare{'s' * (len(needing) == 1)} the student with a teacher, and there is "
            "none: give a teacher, or leave them out."
        )


def can_be_called(network: nn.Module | Teacher | None, owner: str) -> None:
    """Refuse a network without a ``forward``: a LightningModule whose steps call its parts, a ``ModuleDict``.

    Args:
        network: The network, or a teacher that has one.
        owner: ``student`` or ``teacher``, for the message.

    Raises:
        ValueError: It has none.
    """
    network = network.network if isinstance(network, Teacher) else network
    if not isinstance(network, nn.Module) or has_forward(network):
        return
    parts = [name for name, child in network.named_children() if has_forward(child) and count_parameters(child)]
    shown = f"such as module.{parts[0]}" if parts else "which has a forward"
    rest = f" (it has {', '.join(parts)})" if len(parts) > 1 else ""
    raise ValueError(
        f"the {owner} {type(network).__name__} has no forward of its own, so that it cannot be called; give the network inside "
        f"it, {shown}{rest}."
    )


def separate_networks(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that shares parameters with the student: freezing one would freeze the other.

    Raises:
        ValueError: They share parameters.
    """
    known = {id(parameter): name for name, parameter in student.named_parameters()}
    shared = [known[id(parameter)] for parameter in teacher.parameters() if id(parameter) in known]
    if shared:
        raise ValueError(
            f"the teacher shares {len(shared)} parameters with the student ({shared[0]}, …); give the teacher a copy: "
            "copy.deepcopy(student)."
        )


def finite(total: Tensor, losses: Losses, own: Tensor | None, step: int) -> None:
    """Stop before a loss that is not finite reaches the weights.

    Raises:
        FloatingPointError: It is not; the criteria to blame are named.
    """
    if torch.isfinite(total):
        return
    total = total.detach()
    blamed = [f"{name!r} is {float(value)}" for name, value in losses.raw.items() if not torch.isfinite(value)]
    if own is not None and not torch.isfinite(own):
        blamed.append(f"the teacher's own loss is {float(own)}")
    what = "; ".join(blamed) or "the weighted sum overflowed"
    raise FloatingPointError(
        f"the loss is {float(total)} at step {step}: {what}. The weights are as they were after the step before. Look at "
        "the learning rate, the inputs, and the precision."
    )


def optimizers_hold_everything(module: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Make sure that the optimizers hold every trainable parameter, projectors included.

    Raises:
        ValueError: One is missing, or there is no optimizer; it would silently never train.
    """
    made = [
        optimizer for optimizer in optimizers if type(optimizer).__name__ != "_MockOptimizer"
    ]  # Lightning's, for none
    held = {id(p) for optimizer in made for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in held]
    if missing and not made:
        raise ValueError(
            f"there is no optimizer: {type(module).__name__}.configure_optimizers returned none, and {len(missing)} trainable "
            "parameters need one. Return one, or leave configure_optimizers to the module."
        )
    if missing:
        raise ValueError(
            f"{len(missing)} trainable parameters are in no optimizer: {', '.join(missing[:4])}{', …' if missing[4:] else ''}. "
            "Make the optimizer of every parameter that requires a gradient, or freeze these with requires_grad_(False)."
        )


def every_parameter_reached(loss: Tensor, module: LightningModule, criteria: WeightedCriteria) -> None:
    """Say which trainable parameters no criterion trains.

    Raises:
        ValueError: There are some, and DDP, which was not told to look, would wait for them in vain; or there are no others.
    """
    if not loss.requires_grad:
        return
    unreached = unreached_parameters(loss, module)
    if not unreached:
        return
    names = f"{', '.join(unreached[:4])}{', …' if unreached[4:] else ''}"
    strategy: Any = module.trainer.strategy
    if is_a(strategy, "strategies.DDPStrategy") and not strategy._ddp_kwargs.get("find_unused_parameters", False):
        raise ValueError(
            f"no criterion trains {names}, which DDP does not allow. Add a "
            "criterion on the logits, freeze them, or set trainer.strategy to 'ddp_find_unused_parameters_true'."
        )
    waiting = any(criteria.trains(name) and not criteria.weights[name] for name in criteria.criteria())
    if not waiting:
        tell(
            f"no criterion trains {names} ({len(unreached)} parameters of {type(module).__name__}): they stay as they are. "
            "Freeze them with requires_grad_(False), or add a criterion that reads what they make."
        )


def no_probabilities(student: Outputs, teacher: Outputs, squashed: Collection[str]) -> None:
    """Say where a network puts out probabilities in place of logits: a soft target would make them nearly equal.

    Args:
        student: The student's outputs for an example.
        teacher: The teacher's.
        squashed: ``student`` or ``teacher``, where its last module is a sigmoid or a softmax.
    """
    for who, outputs in (("teacher", teacher), ("student", student)):
        if who in squashed:
            tell(
                f"the {who} ends in a sigmoid or a softmax and returns probabilities, and logits are expected: a criterion "
                "would squash them once more. Take the last one out, or read what enters it: "
                f"BatchFormat({'teacher_' * (who == 'teacher')}output_key=torch.logit), torch.log after a softmax."
            )
            continue
        if not outputs.has_logits or outputs.logits.dim() < 2:
            continue
        logits = outputs.logits.detach().float()
        dim = usual_channel_dim(logits.dim())
        if logits.shape[dim] < 2 or not logits.numel() or float(logits.min()) < 0:
            continue
        if torch.allclose(logits.sum(dim), torch.ones((), device=logits.device), atol=1e-3):
            tell(
                f"the {who} returns probabilities (rows in [0, 1] that sum to 1), and logits are expected: a softmax of these "
                "is nearly uniform. Take the last softmax out, or read their logarithm: "
                f"BatchFormat({'teacher_' * (who == 'teacher')}output_key=torch.log)."
            )


def same_on_every_rank(module: LightningModule, digest: str) -> None:
    """Make sure that every process has the same teacher: DDP does not send a frozen one around.

    Args:
        module: The module, in a fit.
        digest: Of this process's teacher, in hexadecimal digits.

    Raises:
        ValueError: They differ.
    """
    if module.trainer.world_size == 1:
        return
    mine = torch.tensor(list(bytes.fromhex(digest)), device=module.device)
    everyone = module.all_gather(mine)
    if not isinstance(everyone, Tensor) or not bool((everyone == mine).all()):
        raise ValueError(
            "the processes have different teachers: load its weights from a file, or seed before it is made."
        )


def logits_are_read(criteria: WeightedCriteria, student: Outputs, teacher: Outputs, target: Target | None) -> bool:
    """Whether any criterion reads the teacher's logits: found by computing all of them without.

    Args:
        criteria: The criteria; copies of them are run.
        student: An example of the student's outputs.
        teacher: An example of the teacher's outputs.
        target: The example's labels.
    """
    if not teacher.has_logits:
        return False
    if not teacher.features or any(criterion.compares_logits for criterion in criteria.criteria().values()):
        return True
    found = []
    for outputs in (teacher, replace(teacher, logits=teacher.logits.new_zeros(0))):
        try:
            with torch.no_grad(), isolate_rng():
                found.append(copy.deepcopy(criteria)(student, outputs, target).raw)
        except Exception:  # whatever a criterion makes of logits that are not there
            return True
    return any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def _kind(criterion: Criterion) -> str:
    """A criterion's class; where it wraps another, that one's too."""
    inner = getattr(criterion, "criterion", None)
    name = type(criterion).__name__
    return f"{name}({_kind(inner)})" if isinstance(inner, Criterion) else name


def summary(
    student_model: nn.Module,
    teacher: Teacher | None,
    criteria: WeightedCriteria,
    student: Outputs,
    teacher_outputs: Outputs,
) -> str:
    """What is about to happen, in a few lines: sizes, criteria and their layer pairs."""
    size = count_parameters(student_model)
    lines = [f"Student: {type(student_model).__name__}, {size:,} parameters."]
    if teacher is not None:
        size_t = count_parameters(teacher.model)
        lines.append(
            f"Teacher: {type(teacher.model).__name__}, {size_t:,} parameters ({size_t / max(size, 1):.1f} times as many), "
            f"{teacher.role}."
        )
    for name, criterion in criteria.criteria().items():
        changes = [
            f"{key.partition('.')[2]} {plan}" for key, plan in criteria.schedules.items() if key.startswith(f"{name}.")
        ]
        weight = (
            "" if any(change.startswith("weight ") for change in changes) else f", weight {criteria.weights[name]:g}"
        )
        lines.append(f"Criterion {name}: {_kind(criterion)}{weight}{''.join(f', {change}' for change in changes)}.")
        if isinstance(criterion, FeatureCriterion):
            for layer_s, layer_t in criterion.pairs:
                shape_s, shape_t = student.features[layer_s].shape, teacher_outputs.features[layer_t].shape
                lines.append(f"    {layer_s} {list(shape_s[1:])} -> {layer_t} {list(shape_t[1:])}")
    if criteria.balance is not None:
        lines.append(f"Balance: {type(criteria.balance).__name__} sets the weights in force.")
    return "\n".join(lines)


def explain_types(error: RuntimeError, batch: object, weights: Tensor) -> None:
    """Say which type the inputs have where a network failed on it.

    Raises:
        ValueError: The inputs' floating-point type is not the weights', and that is what the network failed on.
    """
    found = {tensor.dtype for tensor in tensors_of(batch) if tensor.is_floating_point()}
    if "type" not in str(error) or not found or weights.dtype in found:
        return
    name = str(next(iter(found))).removeprefix("torch.")
    own = str(weights.dtype).removeprefix("torch.")
    raise ValueError(
        f"the batch is of {name} and the student's weights of {own}, which it does not convert ({error}). Convert the data to "
        f"{own} in the data set, or set the Trainer's precision."
    ) from error
