"""Turns a call of the student into the batch that the teacher and the criteria read."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lit_distill.batch.batch import Arguments, Batch, Inputs, positions_and_names
from lit_distill.capture.call import Call
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.notices import warn

_TOKENS = "attention_mask"


def _mask_is_certain(given: Batch, call: Call) -> bool:
    """Return True if the batch's mask overrides the call's: the user named it, or the call has none and is no encoder's."""
    return given.mask_is_told or (call.mask is None and _TOKENS in call.mask_keys)


def tokens_that_count(batch: Any, call: Call) -> Batch | None:
    """Return a batch with only the step's ``attention_mask``; None if it has none that the student could take."""
    found = batch.get(_TOKENS) if isinstance(batch, Mapping) and _TOKENS in call.mask_keys else None
    known = isinstance(found, Tensor) and not found.is_floating_point()  # a float mask is added to the network's scores
    return Batch(call.inputs, mask=found.bool()) if known and isinstance(found, Tensor) else None


class CallInputs:
    """Makes batches from calls of the student."""

    def __init__(self, student: str) -> None:
        self._student = student
        self._warned: set[str] = set()

    def batch(self, call: Call, given: Batch | None, teacher: nn.Module | None) -> Batch:
        """Return the student's inputs, with the labels and the teacher's own inputs of the step's batch.

        Named arguments that the teacher's ``forward`` does not take are left out for it, with one warning.
        """
        rest = given if given is not None else Batch(call.inputs)
        own = rest.teacher_inputs
        if own is None and teacher is not None:
            own = self._for_teacher(call.inputs, teacher)
        mask = rest.mask if _mask_is_certain(rest, call) else call.mask
        return dataclasses.replace(rest, inputs=call.inputs, mask=mask, teacher_inputs=own)

    def _for_teacher(self, inputs: Inputs, teacher: nn.Module) -> Inputs | None:
        positional, named = positions_and_names(inputs)
        taken = _names_taken(teacher) if named else None
        left = [name for name in named if taken is not None and name not in taken]
        if not left:
            return None
        new = [name for name in left if name not in self._warned]
        if new:
            self._warned.update(new)
            warn(
                f"the student {self._student!r} is called with {', '.join(f'{name}=' for name in new)}, which the teacher "
                f"({type(teacher).__name__}) does not take: it is called without."
            )
        kept = {name: value for name, value in named.items() if name not in left}
        return Arguments(tuple(positional), kept) if kept else tuple(positional)


def _names_taken(network: nn.Module) -> set[str] | None:
    """Return the names of the arguments of a network's ``forward``; None if it takes any, or they are unknown."""
    try:
        parameters = inspect.signature(uncompiled(network).forward).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}
