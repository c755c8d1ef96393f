"""Checks that a gradient from each criterion reaches the student, in the graph of one example; no gradient is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from lit_distill.criteria import Criterion, FeatureCriterion
from lit_distill.criteria.task_loss import TaskLoss
from lit_distill.outputs import Outputs
from lit_distill.utils.graph import reached_by
from lit_distill.utils.names import layer_path, listed


def reaches_student(
    values: Mapping[str, Tensor], criteria: Mapping[str, Criterion], student: nn.Module, outputs: Outputs
) -> None:
    """Refuse a criterion that has a weight (now or later) and trains nothing of the student.

    The ``values`` of these for an example, and the outputs, come with their graphs; ``student`` is the network that made the
    outputs.
    """
    own = {id(parameter) for criterion in criteria.values() for parameter in criterion.parameters()}
    wanted = {id(p) for p in student.parameters() if p.requires_grad and id(p) not in own}
    if not wanted and any(True for _ in student.parameters()):
        raise ValueError(_frozen(student, criteria, own))
    for name, value in values.items():
        if isinstance(criteria[name], TaskLoss) or reaches(value, wanted):
            continue
        label = f"no gradient reaches the student through criterion {name!r} ({type(criteria[name]).__name__})"
        raise ValueError(f"{label}: {_why(value, criteria[name], student, outputs, wanted)}")


def reaches(value: Tensor, wanted: Collection[int]) -> bool:
    """Return True if a value's gradient reaches one of the parameters, even if it is 0 in this example."""
    found = reached_by(value, through_steps=False)
    return found is None or not found.isdisjoint(wanted)


def _frozen(student: nn.Module, criteria: Mapping[str, Criterion], own: Collection[int]) -> str:
    trained = [name for name, one in criteria.items() if any(parameter.requires_grad for parameter in one.parameters())]
    rest = f" Only the criteria's own parameters ({', '.join(map(repr, trained))}) would train." if trained else ""
    count = sum(1 for parameter in student.parameters() if id(parameter) not in own)
    return (
        f"the student {type(student).__name__} has nothing to train: all its {count} parameters are frozen.{rest} "
        "Unfreeze it, student.requires_grad_(True), or the part of it that is to learn."
    )


def _why(value: Tensor, criterion: Criterion, student: nn.Module, outputs: Outputs, wanted: Collection[int]) -> str:
    layers = _read_by(criterion, outputs)
    dead = [layer for layer in layers if not reaches(outputs.features[layer], wanted)]
    if layers and len(dead) == len(layers):
        frozen = _frozen_layers(student, dead)
        where = f"no layer up to {listed(dead)} can train"
        remedy = f"Unfreeze {frozen}, or read a layer above" if frozen else "Read another layer"
        why = f"{where} (frozen, detached, or run without gradients). {remedy}"
        return f"{why}; only its own projector would train." if value.requires_grad else f"{why}."
    if outputs.has_logits and not layers and not reaches(outputs.logits, wanted):
        return (
            f"the logits of the student {type(student).__name__} carry none; its forward detaches them, computes without "
            "gradients (torch.no_grad, argmax, .item(), NumPy), rounds them, or takes them only from frozen layers. Take that "
            "out, or unfreeze what makes them."
        )
    if value.requires_grad:
        return "its value depends only on its own parameters, not on the student's outputs."
    return (
        "its value is a constant, or was detached from the student's outputs (.detach(), .item(), argmax, torch.no_grad). "
        "Compute it from the student's tensors, or give it the weight 0 only to log it."
    )


def _read_by(criterion: Criterion, outputs: Outputs) -> list[str]:
    if isinstance(criterion, FeatureCriterion) and criterion.pairs:
        return [layer for layer, _ in criterion.pairs]
    return [layer for layer in criterion.student_layers if layer in outputs.features]


def _frozen_layers(student: nn.Module, layers: Iterable[str]) -> str:
    names = []
    for layer in layers:
        path = layer_path(layer)
        module = dict(student.named_modules()).get(path)
        parameters = list(module.parameters()) if module is not None else []
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            names.append(path or "the student")
    return listed(names)
