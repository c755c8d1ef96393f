"""The layers that were found for criteria, in checkpoints and from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lit_distill.criteria import Criterion
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs


class FoundLayers:
    """Writes the layers that were found to checkpoints, and has criteria read those of a checkpoint instead.

    A run that continues from a checkpoint finds layers before it reads the checkpoint; where these are others, the criterion's
    own layers are built again.
    """

    def __init__(self) -> None:
        self._unbuilt: dict[str, Criterion] = {}  # as they were before layers were found

    def keep(self, criteria: Mapping[str, Criterion]) -> None:
        """Keep copies of criteria whose own layers are about to be built."""
        self._unbuilt = {name: copy.deepcopy(criterion) for name, criterion in criteria.items()}

    def describe(self, criteria: WeightedCriteria) -> dict[str, Any]:
        """Return the layers that were found, by criterion and network."""
        found = {name: one.found_layers for name, one in criteria.innermost().items()}
        return {
            name: {"student": list(layers[0]), "teacher": list(layers[1])} for name, layers in found.items() if layers
        }

    def adopt(self, saved: object, shapes: Mapping[str, Any] | None, criteria: WeightedCriteria) -> bool:
        """Have criteria read the layers of a checkpoint; return True if any of them read others before."""
        changed = False
        for name, layers in saved.items() if isinstance(saved, Mapping) else ():
            criterion = criteria.innermost()[name]
            student, teacher = tuple(layers["student"]), tuple(layers["teacher"])
            if criterion.found_layers == (student, teacher) or not (criterion.needs_layers or criterion.found_layers):
                continue
            changed = True
            if criterion.needs_layers:
                self._unbuilt[name] = copy.deepcopy(criterion)
                criterion.set_found_layers(student, teacher)
                continue
            fresh = copy.deepcopy(self._unbuilt[name])
            fresh.set_found_layers(student, teacher)
            _replace(criteria, name, criterion, fresh)
            if shapes is not None:
                criteria.criteria()[name].build(
                    Outputs.from_shapes(shapes["student"]), Outputs.from_shapes(shapes["teacher"])
                )
        return changed


def _replace(criteria: WeightedCriteria, name: str, old: Criterion, new: Criterion) -> None:
    holder = criteria.criteria()[name]
    if holder is old:
        criteria[name] = new
        return
    while holder.wrapped is not old:
        assert holder.wrapped is not None
        holder = holder.wrapped
    holder.criterion = new
