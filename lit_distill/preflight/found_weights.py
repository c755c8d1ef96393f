"""Checks, in the graph of one example, that a weight can be found for each criterion that was given none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lit_distill.criteria import Criterion
from lit_distill.engine.auto_weights import WHO, AutoWeights
from lit_distill.utils.graph import reached_by
from lit_distill.utils.measuring import NOT_REENTRANT, joint_norm, mean_gradients
from lit_distill.utils.names import listed


def weights_can_be_found(
    balance: AutoWeights, terms: Mapping[str, Tensor], criteria: Mapping[str, Criterion], student: nn.Module
) -> None:
    """Refuse a criterion, or a reference, whose gradient is 0 or not finite for the example; ``terms`` have their graphs.

    A value of 0 has no gradient if the student already does what it asks, or if nothing counts in the example: it may have
    one in training.
    """
    present = [name for name in balance.reference if name in terms]
    if balance.found and not present:
        raise ValueError(
            f"the weight of {listed(balance.found)} is found in comparison with {listed(balance.reference)}, whose weight is "
            f"0 at the start. Give it a number: {_by_hand(balance.found[0])}."
        )
    own = {id(parameter) for criterion in criteria.values() for parameter in criterion.parameters()}
    parameters = [p for p in student.parameters() if p.requires_grad and id(p) not in own]
    reached = {
        name: _reached(name, terms[name], criteria[name], parameters)
        for name in (*present, *balance.found)
        if name in terms and terms[name].requires_grad
    }
    compared = [name for name in present if name in reached]  # the loss of a module's own step has no graph here
    for name in balance.found:
        if compared and name in reached and not any(reached[name] & reached[one] for one in compared):
            raise ValueError(
                f"{_of(name, criteria[name])} shares none of the student's parameters with {listed(compared)}, so their "
                f"gradients cannot be compared. Give it a number: {_by_hand(name)}."
            )


def _reached(name: str, value: Tensor, criterion: Criterion, parameters: Sequence[nn.Parameter]) -> set[int]:
    """Return the places of the parameters that a value's gradient reaches; refuse one that is 0 or not finite."""
    if reached_by(value) is None:  # part of the student is hidden, even where no error would say so
        raise ValueError(f"{WHO} {NOT_REENTRANT}")
    gradients = mean_gradients(value, parameters, WHO, everywhere=False)
    norm = float(joint_norm(gradients.values())) if gradients else 0.0
    number = float(value.detach())
    if 0 < norm < float("inf") or (norm == 0 and number == 0):
        return set(gradients)
    what = "0" if norm == 0 else "not finite"
    cause = (
        "Its layers may be dead (a ReLU that is never above 0) or its values saturated"
        if norm == 0
        else "Look for a root, a logarithm or a norm at 0 in what it computes"
    )
    raise ValueError(
        f"{_of(name, criterion)} has the value {number:.3g} for the first samples and a gradient that is {what}, so that no "
        f"weight can be found from it. {cause}; or give numbers to all criteria that need a teacher: {_by_hand(name)}."
    )


def _of(name: str, criterion: Criterion) -> str:
    return f"criterion {name!r} ({type(criterion).__name__})"


def _by_hand(name: str) -> str:
    return f"weights={{{name!r}: 1.0}}"
