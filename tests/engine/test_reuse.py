"""Criteria belong to the module that they have trained in; what has learned nothing belongs to nobody yet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    EMATeacher,
    FeatureDistillation,
    FrozenTeacher,
    HardTarget,
    Hint,
    JointTeacher,
    LogitDistillation,
    RecordedTeacher,
    SoftTarget,
)
from lit_distill.balance import GradientNorm
from lit_distill.criteria import Criterion
from lit_distill.engine.reuse import held_by
from lit_distill.models import SmallCNN
from lit_distill.schedules import Linear

MakeTrainer = Callable[..., Trainer]
WEIGHTS = {"soft": 1.0, "hint": 1.0}


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8)), batch_size=4)


def criteria() -> dict[str, Criterion]:
    return {"soft": SoftTarget(4.0), "hint": Hint("stage3", "stage3")}


def module(given: dict[str, Criterion], width: int = 2, **settings: Any) -> CombinedDistillation:
    return CombinedDistillation(SmallCNN(width), SmallCNN(3), criteria=given, weights=WEIGHTS, **settings)


def test_criteria_that_have_trained_are_refused_in_another_module(quick_trainer: MakeTrainer) -> None:
    given = criteria()
    first = module(given)
    quick_trainer().fit(first, data())
    quick_trainer().fit(first, data())  # its own go on
    quick_trainer().fit(copy.deepcopy(first), data())
    with pytest.raises(ValueError, match=r"criterion 'hint' \(Hint\) has trained in another module.*inside the loop"):
        quick_trainer().fit(module(given), data())
    with pytest.raises(ValueError, match="has trained in another module"):
        quick_trainer().fit(module(copy.deepcopy(given)), data())


def test_what_has_learned_nothing_is_free(quick_trainer: MakeTrainer) -> None:
    given = criteria()
    module(given)
    for _ in range(2):
        quick_trainer().fit(module(copy.deepcopy(given)), data())
    shared: dict[str, Criterion] = {"soft": SoftTarget(), "hard": HardTarget(class_weights=[1.0] * 10)}
    for precision in ("64-true", "32-true"):
        alone = LogitDistillation(SmallCNN(2), SmallCNN(2), criteria=shared, weights=dict.fromkeys(shared, 1.0))
        quick_trainer(precision=precision).fit(alone, data())


def test_layers_of_another_width_are_refused_by_name(quick_trainer: MakeTrainer) -> None:
    given = criteria()
    first = module(given)
    first.dry_run(first._read_training(next(iter(data()))))
    quick_trainer().fit(module(given), data())  # of the same widths, and untrained
    second = criteria()
    first = module(second)
    first.dry_run(first._read_training(next(iter(data()))))
    with pytest.raises(ValueError, match=r"criterion 'hint' \(Hint\) has layers that were made for another module"):
        quick_trainer().fit(module(second, width=4), data())


@pytest.mark.parametrize("how", ["resumed", "loaded"])
@pytest.mark.filterwarnings("ignore:this run differs")
def test_a_checkpoint_brings_what_was_learned(how: str, quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    given = criteria()
    fit = quick_trainer()
    fit.fit(module(given), data())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    if how == "resumed":
        quick_trainer(max_epochs=2).fit(module(given), data(), ckpt_path=tmp_path / "x.ckpt")
        return
    settings = {"student": SmallCNN(2), "teacher": SmallCNN(3), "criteria": given, "weights": WEIGHTS}
    quick_trainer().fit(CombinedDistillation.load_from_checkpoint(tmp_path / "x.ckpt", **settings), data())


def test_a_balance_belongs_to_one_module_too(quick_trainer: MakeTrainer) -> None:
    balance = GradientNorm("soft")
    for _ in range(2):  # it begins anew with each module that is made
        quick_trainer().fit(module(criteria(), balance=balance), data())
    first, second = (module(criteria(), balance=balance) for _ in range(2))
    quick_trainer().fit(first, data())
    with pytest.raises(ValueError, match=r"the balance \(GradientNorm\) has trained"):
        quick_trainer().fit(second, data())


def test_a_schedule_leaves_the_next_module_what_the_user_gave(quick_trainer: MakeTrainer) -> None:
    shared: dict[str, Criterion] = {"soft": SoftTarget(4.0)}
    settings: dict[str, Any] = {"criteria": shared, "weights": {"soft": 1.0}}
    plan = {"soft.temperature": Linear(8.0, 2.0, 1.0)}
    quick_trainer().fit(LogitDistillation(SmallCNN(2), SmallCNN(2), **settings, schedules=plan), data())
    assert shared["soft"].temperature != 4
    LogitDistillation(SmallCNN(2), SmallCNN(2), **settings)
    assert shared["soft"].temperature == 4


def test_what_a_criterion_keeps_as_an_attribute_counts() -> None:
    class Queue(Criterion):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Tensor] = []

        def forward(self, student: Any, teacher: Any, target: Tensor | None) -> Tensor:
            return torch.zeros(())

    queue = Queue()
    before = held_by(queue)
    queue.kept.append(torch.ones(2))
    assert held_by(queue) != before
    assert held_by(nn.Linear(2, 2).requires_grad_(False)) != before


@pytest.mark.parametrize("kind", [FrozenTeacher, RecordedTeacher])
def test_a_frozen_teacher_serves_many_modules(kind: Callable[..., FrozenTeacher], quick_trainer: MakeTrainer) -> None:
    network = SmallCNN(3)
    teacher = kind(network)
    first = FeatureDistillation(SmallCNN(2), teacher, "stage3", "stage3")
    second = FeatureDistillation(SmallCNN(2), teacher, "stage1", "stage1")
    plain = LogitDistillation(SmallCNN(2), network)
    for one in (first, second, plain, first):
        quick_trainer().fit(one, data(), data())
    assert first.teacher is second.teacher is network
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_a_runtime_that_one_module_chose_is_not_the_next_ones() -> None:
    teacher = FrozenTeacher(SmallCNN(2))
    first = LogitDistillation(SmallCNN(2), teacher)
    from lit_distill import TeacherRuntime

    first._teacher.prefer([TeacherRuntime("bf16")])
    second = LogitDistillation(SmallCNN(2), teacher)
    assert first._teacher.runtime == TeacherRuntime("bf16")
    assert second._teacher.runtime is None


def test_an_average_is_of_its_own_student(quick_trainer: MakeTrainer) -> None:
    teacher = EMATeacher(0.9)
    first, second = (LogitDistillation(SmallCNN(2), teacher) for _ in range(2))
    before = copy.deepcopy(second.teacher.state_dict())
    quick_trainer().fit(first, data())
    assert first.teacher is not second.teacher
    assert all(torch.equal(value, before[name]) for name, value in second.teacher.state_dict().items())


def test_a_joint_teacher_goes_on_in_its_own_module_alone(quick_trainer: MakeTrainer) -> None:
    teacher = JointTeacher(SmallCNN(2))
    first, second = (LogitDistillation(SmallCNN(2), teacher) for _ in range(2))
    quick_trainer().fit(first, data())
    quick_trainer().fit(first, data())
    with pytest.raises(ValueError, match="this JointTeacher has trained in another module"):
        quick_trainer().fit(second, data())
