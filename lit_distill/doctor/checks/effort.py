"""What a record of training steps says of the criteria's weights and costs."""

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
from lit_distill.doctor.findings import Finding
from lit_distill.doctor.record import Record
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.setup import Setup

_APART = 100.0
_DEAR = 2.0  # times the student's own step
_NOTHING = 5e-3  # seconds


def balance_findings(record: Record) -> list[Finding]:
    """Criteria that pull at the student much harder or much less than the others."""
    pulls = {name: pull for name, pull in record.pulls.items() if math.isfinite(pull)}
    strongest = max(pulls, key=lambda name: pulls[name])
    found = []
    for name, pull in pulls.items():
        if pull * _APART < pulls[strongest]:
            found.append(
                Finding(
                    "balance",
                    "warning",
                    f"criterion {name!r}",
                    f"its weighted gradient over the student is {pull:.2g}, and that of {strongest!r} {pulls[strongest]:.2g}: "
                    f"it {'has no effect' if pull == 0 else 'hardly counts'}.",
                    "raise its weight or lower the other's; balance: lit_distill.balance.GradientNorm finds weights by itself.",
                )
            )
    return found


def cost_findings(setup: Setup, record: Record) -> list[Finding]:
    """Criteria that take much longer than the student's own forward and backward pass; both are timed anew."""
    assert record.sample is not None
    assert record.student_call is not None
    sample, (inputs, named) = record.sample, record.student_call
    student = setup.student.to(sample.student.logits.device)  # Lightning has moved it back to the CPU
    own = _time(partial(_pass, student, inputs, named))
    found = []
    for name, criterion in record.built.items():
        cost = _time(partial(_value, criterion, sample)) if setup.criteria.weights[name] > 0 else 0.0
        if math.isfinite(own) and math.isfinite(cost) and cost > max(_NOTHING, _DEAR * own):
            found.append(
                Finding(
                    "cost",
                    "warning",
                    f"criterion {name!r} ({type(criterion).__name__})",
                    f"takes {1000 * cost:.0f} ms a batch, forward and backward; the student takes {1000 * own:.0f} ms.",
                    "compare Gram matrices in place of all pairs of positions (torch.bmm), pool the features first, or use "
                    "fewer layers.",
                )
            )
    return found


def _pass(model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """A network's forward pass, as one number to differentiate."""
    outputs = [tensor for tensor in tensors_of(model(*inputs, **named)) if tensor.requires_grad]
    return torch.stack([tensor.float().sum() for tensor in outputs]).sum()


def _value(criterion: Criterion, sample: Sample) -> Tensor:
    leaves = {name: value.clone().requires_grad_() for name, value in sample.inputs().items()}
    tried = sample.with_inputs(leaves)
    value: Tensor = criterion(tried.student, tried.teacher, tried.target)
    return value.sum()


def _time(run: Callable[[], Any]) -> float:
    """Seconds for a value and its gradient, the best of three; infinite where that fails."""
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
