"""Checks of the criteria's weights and costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import tensors_of
from lit_distill.criteria import Criterion
from lit_distill.doctor.findings import Finding, check, warning
from lit_distill.doctor.observations import TrialFit
from lit_distill.doctor.sample import Sample

_APART = 100.0
_EXPENSIVE = 2.0  # times the student's own step
_NEGLIGIBLE = 5e-3  # seconds


@check("balance", "no weighted criterion pulls 100 times harder than another")
def balance(trial: TrialFit) -> list[Finding] | None:
    """Warning if a criterion's weighted gradient with respect to the student is 100 times smaller than another's."""
    pulls = {name: pull for name, pull in trial.seen.pulls.items() if math.isfinite(pull)}
    if not trial.seen.pulls:
        return None
    found = []
    strongest = max(pulls, key=lambda name: pulls[name], default="")
    for name, pull in pulls.items():
        if pull * _APART < pulls[strongest]:
            found += warning(
                f"criterion {name!r}",
                f"its weighted gradient over the student is {pull:.2g}, and that of {strongest!r} {pulls[strongest]:.2g}: "
                f"it {'has no effect' if pull == 0 else 'hardly counts'}.",
                "raise its weight or lower the other's; balance: lit_distill.balance.GradientNorm finds weights by itself.",
            )
    return found


@check("cost", "no criterion costs more than the student's own step")
def cost(trial: TrialFit) -> list[Finding] | None:
    """Warning if a criterion takes more than twice as long as the student, forward and backward."""
    sample, call, setup = trial.seen.sample, trial.seen.student_call, trial.setup
    if sample is None or call is None:
        return None
    student = setup.student.to(sample.student.logits.device)  # Lightning has moved it back to the CPU
    own = _time(partial(_pass, student, *call))
    found = []
    for name, criterion in trial.seen.built.items():
        spent = _time(partial(_value, criterion, sample)) if setup.criteria.weights[name] > 0 else 0.0
        if math.isfinite(own) and math.isfinite(spent) and spent > max(_NEGLIGIBLE, _EXPENSIVE * own):
            found += warning(
                f"criterion {name!r} ({type(criterion).__name__})",
                f"takes {1000 * spent:.0f} ms per batch, forward and backward; the student takes {1000 * own:.0f} ms.",
                "compare Gram matrices instead of all pairs of positions (torch.bmm), pool the features first, or use "
                "fewer layers.",
            )
    return found


def _pass(model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    outputs = [tensor for tensor in tensors_of(model(*inputs, **named)) if tensor.requires_grad]
    return torch.stack([tensor.float().sum() for tensor in outputs]).sum()


def _value(criterion: Criterion, sample: Sample) -> Tensor:
    tried = sample.with_inputs({name: value.clone().requires_grad_() for name, value in sample.inputs().items()})
    value: Tensor = criterion(tried.student, tried.teacher, tried.target)
    return value.sum()


def _time(run: Callable[[], Any]) -> float:
    """Return the seconds for a value and its gradient, the best of three; infinity if that fails."""
    best = math.inf
    for _ in range(3):
        begun = time.perf_counter()
        try:
            with torch.enable_grad():
                value = run()
                if value.requires_grad:
                    value.backward()
        except Exception:  # one task's labels, a state that is not there: it is only not timed
            return math.inf
        if value.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best
