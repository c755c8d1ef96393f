"""Networks that output probabilities, or their logarithms, instead of the logits that criteria expect."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_distill.batch.batch import Target
from lit_distill.batch.layout import usual_channel_dim
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.utils.notices import warn

_TOLERANCE = 1e-3  # of a row's sum to 1: half precision


def warn_of_probabilities(student: Outputs, teacher: Outputs, squashed: Collection[str]) -> None:
    """Warn if a network returns probabilities instead of logits: a soft target would make them nearly equal.

    ``squashed`` names those whose last operation is a sigmoid or a softmax.
    """
    for who, outputs in (("teacher", teacher), ("student", student)):
        key = f"{'teacher_' * (who == 'teacher')}output_key"
        rows = " (rows in [0, 1] that sum to 1)" if rows_sum_to_one(outputs, logarithms=False) else ""
        if who in squashed:
            warn(
                f"the {who} ends in a sigmoid or a softmax and returns probabilities{rows}, and logits are expected: a "
                "criterion would squash them once more. Take the last one out, or read what enters it: "
                f"BatchFormat({key}=torch.logit), torch.log after a softmax."
            )
        elif rows:
            warn(
                f"the {who} returns probabilities{rows}, and logits are expected: a softmax of these is nearly uniform. Take "
                f"the last softmax out, or read their logarithm: BatchFormat({key}=torch.log)."
            )


def warn_of_logarithms(student: Outputs, teacher: Outputs, criteria: WeightedCriteria, target: Target | None) -> None:
    """Warn if a network returns logarithms of probabilities, and a criterion is sensitive to that.

    To a softmax they are logits like any other, but not to a criterion that depends on a constant added to a row.
    """
    for who, outputs in (("teacher", teacher), ("student", student)):
        shifted = rows_sum_to_one(outputs, logarithms=True)
        minding = _minding(criteria, student, teacher, who, target) if shifted else []
        if minding:
            warn(
                f"the {who} returns logarithms of probabilities (a log-softmax), and {', '.join(map(repr, minding))} "
                f"compare{'s' * (len(minding) == 1)} logits as they are: each row is shifted by a constant of its own. "
                "Take the log-softmax out, or use a criterion that is made of a softmax (SoftTarget)."
            )


def rows_sum_to_one(outputs: Outputs, logarithms: bool) -> bool:
    """Return True if an output's rows of classes are probabilities, or their logarithms."""
    if not outputs.has_logits or outputs.logits.dim() < 2 or not outputs.logits.is_floating_point():
        return False
    logits = outputs.logits.detach().float()
    dim = usual_channel_dim(logits.dim())
    if logits.shape[dim] < 2 or not logits.numel():
        return False
    if float(logits.max()) > _TOLERANCE if logarithms else float(logits.min()) < 0:
        return False
    sums = (logits.exp() if logarithms else logits).sum(dim)
    return torch.allclose(sums, torch.ones((), device=logits.device), atol=_TOLERANCE)


def _minding(
    criteria: WeightedCriteria, student: Outputs, teacher: Outputs, who: str, target: Target | None
) -> list[str]:
    """Return the criteria whose values change if a constant is added to each row of a network's logits."""

    def values(shift: float) -> dict[str, Tensor]:
        outputs = teacher if who == "teacher" else student
        logits = outputs.logits
        shifts = torch.arange(1, len(logits) + 1, device=logits.device).to(logits.dtype) * shift
        moved = replace(outputs, logits=logits + shifts.view(-1, *[1] * (logits.dim() - 1)))
        pair = (student, moved) if who == "teacher" else (moved, teacher)
        raw: dict[str, Tensor] = copy.deepcopy(criteria).eval()(*pair, target).raw
        return raw

    try:
        with torch.no_grad(), isolate_rng():
            before, after = values(0.0), values(1.0)
    except Exception:  # a criterion may refuse to be copied
        return []
    named = criteria.criteria()
    return [
        name
        for name, value in before.items()
        if criteria.trains(name) and named[name].compares_logits and not torch.allclose(value, after[name], 1e-2, 1e-4)
    ]
