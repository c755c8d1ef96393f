"""The doctor finds the mistakes of ``bugs``, and nothing in the same set-ups without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lit_distill import Criterion, DistillationModule
from lit_distill.criteria import Hint
from lit_distill.doctor import Finding, examine
from tests.doctor import bugs
from tests.doctor.setups import Net, TokenNet, vectors, with_criterion

Make = Callable[[], Criterion]


def found(
    criterion: Criterion, options: dict[str, Any] | None = None, steps: int = 3, **setup: Any
) -> dict[tuple[str, str], Finding]:
    module, data = with_criterion(criterion, **setup)
    findings = examine(module, data, options, steps=steps)
    return {(finding.check, finding.severity): finding for finding in findings}


def severe(findings: dict[tuple[str, str], Finding]) -> set[str]:
    return {check for check, severity in findings if severity == "bug"}


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (bugs.NegativeKL, "sign"),
        (bugs.AddedLikeness, "sign"),
        (bugs.ProbabilitiesAsLogs, "minimum"),
        (bugs.OneSideSoftened, "minimum"),
        (bugs.Rebuilt, "gradient"),
        (bugs.DetachedTwice, "gradient"),
        (bugs.Neighbours, "order"),
        (bugs.MeanOverClasses, "classes"),
        (bugs.MeanWithLabels, "classes"),
        (bugs.SumOverBatch, "batch_size"),
        (bugs.NotReduced, "scalar"),
        (bugs.LogOfSoftmax, "finite"),
        (bugs.RootAtZero, "finite"),
        (bugs.NanToZero, "hidden_nan"),
        (bugs.NoSquare, "temperature"),
        (bugs.NoSquareWithLabels, "temperature"),
        (bugs.ListedScales, "unregistered"),
        (bugs.ListedProjector, "unregistered"),
        (bugs.FrozenProjection, "reached"),
        (bugs.Uncoupled, "gradient"),
        (bugs.Uncoupled, "reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_finds_a_criterions_mistake(make: Make, check: str) -> None:
    findings = found(make())
    assert "term" in findings[check, "bug"].where


@pytest.mark.parametrize(
    ("make", "check"),
    [(bugs.Unmasked, "mask"), (bugs.MaskOfAMean, "mask"), (bugs.OverTokens, "softmax")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_finds_a_mistake_on_tokens(make: Make, check: str) -> None:
    assert (check, "bug") in found(make(), sequences=True)


@pytest.mark.parametrize(
    ("make", "check", "sequences"),
    [
        (bugs.PartDetached, "gradient", False),
        (bugs.Relational, "batch_size", False),
        (bugs.JumpingBeta, "jump", False),
        (bugs.Slow, "cost", False),
        (bugs.FixedProjector, "reached", False),
        (bugs.SumOfTokens, "length", True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_warns_of_what_may_be_meant(make: Make, check: str, sequences: bool) -> None:
    assert (check, "warning") in found(make(), sequences=sequences)


@pytest.mark.parametrize("make", [bugs.OnLogits, bugs.OnFeatures, bugs.Relational, bugs.JumpingBeta, bugs.SumOfTokens])
def test_finds_no_bug_where_there_is_none(make: Make) -> None:
    assert severe(found(make())) == set()


# Teachers ----------------------------------------------------------------------------------------


def test_finds_a_teacher_in_training_mode() -> None:
    findings = found(bugs.OnLogits(), teacher=bugs.ForgetfulTeacher(Net(16)))
    assert severe(findings) == {"teacher_mode", "teacher_drift"}
    assert "norm.running_mean" in findings["teacher_drift", "bug"].found
    assert severe(found(bugs.OnLogits(), teacher=bugs.CarefulTeacher(Net(16)))) == set()


def test_finds_another_frozen_network_in_training_mode() -> None:
    findings = found(bugs.OnLogits(), kind=bugs.SecondTeacher)
    assert severe(findings) == {"teacher_mode", "teacher_drift"}
    assert "the module's extra (Net)" in findings["teacher_mode", "bug"].where


def test_finds_a_teacher_whose_weights_move() -> None:
    findings = found(bugs.OnLogits(), teacher=bugs.RestlessTeacher(Net(16)))
    assert severe(findings) == {"teacher_drift"}
    assert "1 of its 11 tensors" in findings["teacher_drift", "bug"].found


def test_finds_a_teacher_in_the_optimizer() -> None:
    assert "optimizer" in severe(found(bugs.OnLogits(), kind=bugs.TrainedTeacher))


def test_finds_a_teacher_that_is_random_in_any_mode() -> None:
    assert severe(found(bugs.OnLogits(), teacher=bugs.AlwaysDropping(16))) == {"teacher_repeats"}


def test_warns_of_a_teacher_that_knows_nothing() -> None:
    module, _ = with_criterion(bugs.OnLogits())
    data = vectors(Net(16))  # another teacher's labels
    findings = examine(module, data, steps=4)
    assert [finding.severity for finding in findings if finding.check == "teacher_chance"] == ["warning"]
    assert ("teacher_chance", "warning") not in found(bugs.OnLogits(), steps=4)


# What trains -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bugs.StudentAlone, bugs.StudentAloneUnchecked])
def test_finds_a_projector_outside_the_optimizer(kind: type[DistillationModule]) -> None:
    finding = found(Hint("stage", "stage"), kind=kind)["optimizer", "bug"]
    assert "criteria.term.projectors.0" in finding.where


def test_finds_a_layer_that_was_replaced_behind_the_optimizer() -> None:
    finding = found(bugs.OnLogits(), kind=bugs.HeadReplaced)["optimizer", "bug"]
    assert "student.head" in finding.where


def test_warns_of_a_learning_rate_of_zero() -> None:
    findings = found(Hint("stage", "stage"), kind=bugs.RateOfZero)
    assert "criteria.term.projectors" in findings["moves", "warning"].where


def test_finds_parameters_that_do_not_move() -> None:
    assert "criteria.term.projectors" in found(Hint("stage", "stage"), kind=bugs.Undone)["moves", "bug"].where


def test_names_the_list_that_holds_what_does_not_train() -> None:
    assert "term.log_scales" in found(bugs.ListedScales())["unregistered", "bug"].where
    assert "term.regressors" in found(bugs.ListedProjector())["unregistered", "bug"].where


def test_warns_of_a_weight_without_effect() -> None:
    findings = found(bugs.OnLogits(), weight=1e-7)
    assert "hardly counts" in findings["balance", "warning"].found
    assert ("balance", "warning") not in found(bugs.OnLogits())


# Precision ---------------------------------------------------------------------------------------


def test_finds_what_overflows_in_the_chosen_precision_alone() -> None:
    findings = found(bugs.NarrowSquares(), {"precision": "16-true"})
    assert "float16" in findings["finite", "bug"].found
    assert severe(found(bugs.NarrowSquares())) == set()


def test_looks_at_the_precision_that_was_asked_for() -> None:
    # On a CPU, Lightning takes bf16-mixed in its place.
    assert "float16" in found(bugs.NarrowSquares(), {"precision": "16-mixed"})["finite", "bug"].found


def test_finds_updates_that_half_precision_rounds_away() -> None:
    class TinySteps(DistillationModule):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    findings = found(bugs.OnLogits(), {"precision": "bf16-true"}, kind=TinySteps)
    assert "rounded away" in findings["moves", "bug"].found


# The examination ---------------------------------------------------------------------------------


def test_tells_why_a_set_up_does_not_run() -> None:
    class Broken(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("the images are of the wrong size")

    module = DistillationModule(Broken(), Net(16), {"term": bugs.OnLogits()}, {"term": 1.0})
    (finding,) = examine(module, vectors(Net(16)), steps=1)
    assert finding.check == "run"
    assert "the images are of the wrong size" in finding.found


def test_leaves_the_module_and_the_random_numbers_as_they_were() -> None:
    module, data = with_criterion(Hint("stage", "stage"), teacher=bugs.RestlessTeacher(Net(16)))
    assert module.teacher is not None
    before = {name: value.clone() for name, value in module.state_dict().items()}
    teacher = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    examine(module, data, steps=2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, teacher[name]) for name, value in module.teacher.state_dict().items())
    assert isinstance(module.student, nn.Module)
    assert not isinstance(module.student, TokenNet)


def test_refuses_what_it_cannot_examine() -> None:
    with pytest.raises(TypeError, match="it was given a Net, which is no LightningModule"):
        examine(Net(), vectors(Net()))  # type: ignore[arg-type]
    module, data = with_criterion(bugs.OnLogits())
    with pytest.raises(ValueError, match="steps must be 1 to 20, not 21"):
        examine(module, data, steps=21)
