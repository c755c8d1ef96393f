"""Decides on an example whether soft targets that leave it to the library standardize the logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_distill.criteria import SoftTarget
from lit_distill.criteria.layers import AUTO
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.preflight.probabilities import rows_sum_to_one
from lit_distill.utils.distributed import of_first_process

_FEWEST, _MOST = 3, 1000  # classes; the paper's largest data set has 1,000
_MASKED = 1e3  # below the largest logit of a row: a class that was masked, not one that is unlikely


def decide_standardization(distiller: Distiller, student: Outputs, teacher: Outputs) -> None:
    """Decide for all soft targets that ask, and print what was decided; an earlier decision stays.

    In a distributed fit, all processes take what the first one decides.

    Args:
        distiller: The distillation.
        student: The student's outputs for the example.
        teacher: The teacher's.
    """
    criteria = distiller.criteria.criteria()
    asking = {name: one for name, one in criteria.items() if isinstance(one, SoftTarget) and one.standardize == AUTO}
    if not asking:
        return
    reason = of_first_process(next(_reasons_against(distiller, student, teacher), None))
    for name, criterion in asking.items():
        criterion.standardize = reason is None
        how = "standardized logits (standardize=False: as they are)" if reason is None else f"plain logits, as {reason}"
        rank_zero_info(f"Criterion {name} compares {how}.")


def _reasons_against(distiller: Distiller, student: Outputs, teacher: Outputs) -> Iterator[str]:
    """Yield what speaks against standardized logits."""
    if not _learns_labels(distiller.criteria):
        yield "no criterion learns from labels, which would set the scale of the student's logits"
    if distiller.teacher is not None and not distiller.teacher.gives_all_logits:
        yield "the teacher's recording keeps only the largest of each sample"
    squashed = [who for who, capture in distiller.captures().items() if capture.layouts.squashed]
    for who, outputs in (("teacher", teacher), ("student", student)):
        if not outputs.has_logits:
            yield f"the {who} has none"
        elif who in squashed or rows_sum_to_one(outputs, logarithms=False):
            yield f"the {who} returns probabilities"
        else:
            yield from _reasons_of(outputs.logits, who)
    if teacher.has_logits and teacher.logits.dim() == 2 and _mostly_alike(teacher.logits):
        yield "most classes of the teacher share one value, as if only the largest were known"


def _learns_labels(criteria: WeightedCriteria) -> bool:
    named = criteria.criteria()
    return any(criteria.trains(name) for name, criterion in named.items() if not criterion.needs_teacher)


def _reasons_of(logits: Tensor, who: str) -> Iterator[str]:
    """Yield what speaks against standardizing a network's logits."""
    if logits.dim() != 2:
        yield f"the {who}'s are {list(logits.shape[1:])} a sample, and only one prediction a sample was measured"
        return
    classes = logits.shape[1]
    if classes < _FEWEST:
        yield f"of {classes} classes only their order would be left"
    if classes > _MOST:
        yield f"{classes:,} classes are more than were measured"
    values = logits.detach()
    spread = values.amax(1) - values.amin(1)  # NaN if a value is no number, or all are infinite
    if not bool((spread < _MASKED).all()):
        yield f"some of the {who}'s classes are masked"


def _mostly_alike(logits: Tensor) -> bool:
    """Return True if more than half of the classes share a value in every row that is not all alike."""
    values = logits.detach()
    uneven = values[values.amin(1) < values.amax(1)]
    if not len(uneven):
        return False
    return bool(((uneven == torch.mode(uneven, 1, keepdim=True).values).sum(1) > logits.shape[1] / 2).all())
