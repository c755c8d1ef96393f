"""What no weight can be found for is refused before training, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, DistillationModule, HardTarget, Hint
from lit_distill.criteria import Criterion, LogitMSE
from lit_distill.outputs import Outputs
from lit_distill.schedules import Linear
from tests.plain import Plain, quiet_trainer


class Bug(Criterion):
    """The distance of the logits, and something that spoils its gradient."""

    compares_logits = True

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spoil = spoil

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return self.spoil((student.logits - teacher.logits).square().mean())


DEAD, ROOT = Bug(lambda value: value * 0 + 0.25), Bug(lambda value: (value * 0).sqrt() + 1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


class Heads(nn.Module):
    """The logits, and a branch that the logits do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.branch = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.branch(x)
        found: Tensor = self.head(x)
        return found


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(16, 8), torch.arange(16) % 3), batch_size=8)


def module(criteria: dict[str, Criterion], student: nn.Module | None = None, **options: Any) -> DistillationModule:
    settings: dict[str, Any] = {"weights": {}} | options
    return DistillationModule(student or network(), Heads(), {"hard": HardTarget(), **criteria}, **settings)


def dying() -> nn.Sequential:
    student = network()
    nn.init.constant_(student[0].bias, -100.0)  # type: ignore[arg-type]  # no unit is ever above 0
    return student


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: module({"x": DEAD}),
            r"criterion 'x' \(Bug\) has the value 0.25 .* gradient that is 0, .*weights={'x': 1.0}",
        ),
        (lambda: module({"x": ROOT}), r"criterion 'x' \(Bug\) has the value 1 .* gradient that is not finite.*a root"),
        (
            lambda: module({"x": Hint("1", "head")}, dying()),
            r"criterion 'x' \(Hint\) .* gradient that is 0.*a ReLU that is never above 0",
        ),
        (
            lambda: module({"x": Hint("branch", "branch")}, Heads()),
            r"'x' \(Hint\) shares none of the student's parameters with hard, .*weights={'x': 1.0}",
        ),
        (
            lambda: module({"x": LogitMSE()}, schedules={"hard.weight": Linear(0, 1, until=2)}),
            r"the weight of x is found in comparison with hard, whose weight is 0 at the start. Give it a number",
        ),
        (lambda: module({"x": LogitMSE(), "y": DEAD}, weights={"y": 2.0}), None),  # its weight is a number
    ],
)
def test_is_refused_before_the_first_batch(make: Callable[[], DistillationModule], words: str | None) -> None:
    trainer = quiet_trainer(enable_checkpointing=False)
    if words is None:
        trainer.fit(make(), data())
        return
    with pytest.raises(ValueError, match=words):
        trainer.fit(make(), data())
    assert trainer.global_step == 0


@pytest.mark.parametrize(("bug", "words"), [(DEAD, "gradient that is 0"), (ROOT, "gradient that is not finite")])
def test_is_refused_in_a_module_of_ones_own(bug: Criterion, words: str) -> None:
    trainer = quiet_trainer(enable_checkpointing=False, callbacks=[Distill(network(), {"x": bug})])
    with pytest.raises(ValueError, match=f"criterion 'x' .*{re.escape(words)}"):
        trainer.fit(Plain(network()), data())
    assert trainer.global_step == 0


def test_a_student_that_starts_as_its_teacher_is_not_refused() -> None:
    """The criterion is 0, and so is its gradient, until the labels have moved the student."""
    student, teacher = network(), network()
    teacher.load_state_dict(student.state_dict())
    criteria = {"hard": HardTarget(), "x": LogitMSE()}
    fit = quiet_trainer(enable_checkpointing=False, log_every_n_steps=1)
    fit.fit(DistillationModule(student, teacher, criteria, {}), data())
    assert float(fit.callback_metrics["train/weight/x"]) > 0


def test_a_head_that_starts_at_0_is_not_refused() -> None:
    """The label loss then sends no gradient behind the head in the first batch."""
    student = network()
    nn.init.zeros_(student[2].weight)  # type: ignore[arg-type]
    fit = quiet_trainer(enable_checkpointing=False, log_every_n_steps=1)
    fit.fit(module({"x": Hint("0", "head")}, student), data())
    assert float(fit.callback_metrics["train/weight/x"]) > 0
