"""The doctor examines a LightningModule that knows nothing of distillation, with the ``Distill`` callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lit_distill import Criterion, Distill, HardTarget, Hint
from lit_distill.doctor import CHECKS, examine, report
from lit_distill.doctor.setup import setup_of
from lit_distill.teachers import JointTeacher
from tests.doctor import bugs
from tests.doctor.guests import (
    Adversarial,
    AllPadding,
    CallsItself,
    Frozen,
    HeadAlone,
    Listed,
    MadeInSetup,
    SteepScale,
    TeacherToo,
    Undone,
    Unfreezes,
    WithNeck,
    examined,
    found,
    hosted,
    severe,
)
from tests.doctor.setups import Net, vectors
from tests.integration.test_distill_hosts import HOSTS, torchvision_reference

# What is right -----------------------------------------------------------------------------------

UNREAD = {"mask", "length", "teacher_chance"}
ON_LAYERS = {"classes", "softmax", "temperature", "jump", "hidden_nan"}


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
@pytest.mark.parametrize(
    ("setup", "unchecked"),
    [
        (dict, UNREAD),
        (lambda: {"criterion": Hint("stage", "stage")}, UNREAD | ON_LAYERS),
        (lambda: {"criterion": Hint("model.stage", "stage"), "kind": CallsItself, "student": "."}, UNREAD | ON_LAYERS),
        (lambda: {"kind": MadeInSetup}, UNREAD),
        (lambda: {"kind": Adversarial}, UNREAD),
        (lambda: {"criterion": HardTarget()}, None),
        (lambda: {"teacher": JointTeacher(Net(16))}, None),
    ],
    ids=["defaults", "projector", "itself", "made in setup", "adversarial", "labels", "joint teacher"],
)
def test_finds_no_bug_where_there_is_none(
    setup: Callable[[], dict[str, Any]], unchecked: set[str] | None, precision: str | None
) -> None:
    told = examined(**setup(), precision=precision)
    assert told.bugs == []
    assert told.notes == []
    assert told.steps == 3
    assert unchecked is None or set(CHECKS) - told.checked == unchecked


def test_what_is_frozen_in_a_student_is_its_own_affair() -> None:
    told = examined(kind=Frozen, student=".")
    assert told.bugs == []
    assert told.steps == 3


def test_a_network_may_train_from_some_step_on() -> None:
    module, data, guest = hosted(kind=WithNeck)
    told = report(module, data, {"callbacks": [guest, Unfreezes()]}, 4)
    assert told.bugs == []
    assert "teacher_drift" in told.checked
    assert told.steps == 4


def test_a_step_alone_does_not_tell_what_is_made_in_it() -> None:
    assert examined(kind=Adversarial, steps=1).bugs == []
    assert ("unregistered", "bug") in found(bugs.ListedProjector(), steps=1)


def test_a_sparse_gradient_may_have_no_values() -> None:
    told = examined(kind=AllPadding)
    assert told.bugs == []
    assert told.steps == 3


# All but the one with the largest networks.
@pytest.mark.parametrize(
    "make", [make for make in HOSTS if make is not torchvision_reference], ids=lambda make: make.__name__
)
def test_finds_no_bug_in_modules_that_others_wrote(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    module, data, guest = make()
    told = report(module, data, {"callbacks": [guest]}, 2)
    assert told.bugs == []
    assert told.notes == []
    assert {finding.check for finding in told.findings} <= {"balance"}  # the weights are not for untrained networks


def test_the_modules_own_loss_is_weighed_and_not_tried() -> None:
    told = examined(bugs.OnLogits(), weight=1e-7)
    (finding,) = [finding for finding in told.findings if finding.check == "balance"]
    assert finding.where == "criterion 'term'"
    assert "that of 'task'" in finding.found
    assert told.bugs == []
    assert not any("'task' (" in text for text in [*told.notes, *(finding.where for finding in told.findings)])


def test_what_is_no_formula_is_not_tried() -> None:
    module, _, guest = hosted({"term": bugs.OnLogits()})
    assert list(setup_of(module, [guest]).formulas()) == ["term"]


def test_only_the_students_own_parameters_are_weighed() -> None:
    # The whole module is the student, and the criteria are within it.
    told = examined(SteepScale(), kind=CallsItself, student=".")
    assert "balance" in told.checked
    assert not [finding for finding in told.findings if finding.check == "balance"]


def test_labels_are_looked_at_where_something_reads_them() -> None:
    module, _, guest = hosted({"hard": HardTarget()})
    others = vectors(Net(16))  # another teacher's labels
    told = report(module, others, {"callbacks": [guest]}, 3)
    assert [finding.severity for finding in told.findings if finding.check == "teacher_chance"] == ["warning"]
    assert "teacher_chance" in examined(HardTarget()).checked
    assert ("teacher_chance", "warning") not in found(HardTarget())


# What is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (bugs.NegativeKL, "sign"),
        (bugs.OneSideSoftened, "minimum"),
        (bugs.Rebuilt, "gradient"),
        (bugs.Neighbours, "order"),
        (bugs.SumOverBatch, "batch_size"),
        (bugs.MeanOverClasses, "classes"),
        (bugs.MeanWithLabels, "classes"),
        (bugs.NoSquare, "temperature"),
        (bugs.LogOfSoftmax, "finite"),
        (bugs.NanToZero, "hidden_nan"),
        (bugs.NotReduced, "scalar"),
        (bugs.Uncoupled, "reached"),
        (bugs.ListedProjector, "unregistered"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_finds_a_criterions_mistake(make: Callable[[], Criterion], check: str) -> None:
    assert "term" in found(make())[check, "bug"].where


def test_finds_what_overflows_in_the_chosen_precision_alone() -> None:
    assert "float16" in found(bugs.NarrowSquares(), "16-mixed")["finite", "bug"].found
    assert severe(found(bugs.NarrowSquares())) == set()


@pytest.mark.parametrize(
    ("make", "checks"),
    [
        (lambda: bugs.ForgetfulTeacher(Net(16)), {"teacher_mode", "teacher_drift"}),
        (lambda: bugs.CarefulTeacher(Net(16)), set()),
        (lambda: bugs.RestlessTeacher(Net(16)), {"teacher_drift"}),
        (lambda: bugs.AlwaysDropping(16), {"teacher_repeats"}),
    ],
    ids=["training mode", "right", "moves", "random"],
)
def test_finds_a_teachers_mistake(make: Callable[[], Any], checks: set[str]) -> None:
    torch.manual_seed(0)
    assert severe(found(bugs.OnLogits(), teacher=make())) == checks


def test_finds_a_teacher_in_the_optimizer() -> None:
    module, data, guest = hosted(kind=TeacherToo)
    module.held = [guest.teacher]
    findings = examine(module, data, {"callbacks": [guest]}, 2)
    assert [finding.where for finding in findings if finding.check == "optimizer"] == ["the teacher"]


def test_finds_what_the_modules_optimizer_has_left_out() -> None:
    finding = found(Hint("stage", "stage"), kind=HeadAlone)["optimizer", "bug"]
    assert finding.where.startswith("parameter model.stem.weight")  # and no projector, which the callback puts in
    assert "lit_distill" not in finding.where


def test_finds_a_students_layers_in_a_plain_list() -> None:
    module, data, guest = hosted({"term": bugs.OnLogits()})
    module.model = Listed()
    findings = examine(module, data, {"callbacks": [guest]}, 3)
    assert {finding.where for finding in findings if finding.severity == "bug"} == {"Classifier, self.model.layers"}


def test_finds_a_projector_that_does_not_move() -> None:
    module, data, guest = hosted({"term": Hint("stage", "stage")})
    findings = examine(module, data, {"callbacks": [guest, Undone()]}, 3)
    assert [(finding.check, finding.severity) for finding in findings] == [("moves", "bug")]
    assert "lit_distill.criteria.term.projectors.0" in findings[0].where


@pytest.mark.parametrize(
    ("options", "words"),
    [({"student": "mode"}, "no submodule 'mode'"), ({"call": 3}, "there is no call 3")],
    ids=["no such student", "no such call"],
)
def test_tells_why_a_set_up_does_not_run(options: dict[str, Any], words: str) -> None:
    assert words in found(bugs.OnLogits(), **options)["run", "bug"].found


def test_two_callbacks_are_one_too_many() -> None:
    module, data, guest = hosted()
    (finding,) = examine(module, data, {"callbacks": [guest, Distill(Net(16))]}, 2)
    assert finding.check == "run"
    assert "two Distill callbacks" in finding.found


@pytest.mark.parametrize("callbacks", [[], [Undone()], None])
def test_refuses_a_module_without_the_callback(callbacks: Any) -> None:
    module, data, _ = hosted()
    with pytest.raises(TypeError, match=r"a lit_distill\.Distill among .*given a Classifier, without the callback"):
        examine(module, data, {"callbacks": callbacks})
