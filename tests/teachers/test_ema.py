"""A teacher that is its student's moving average."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, HardTarget, Hint, LogitDistillation, SoftTarget
from lit_distill.models import MLP, SmallCNN
from lit_distill.teachers import EMATeacher


class Net(nn.Module):
    """Has weights, statistics and a whole-numbered buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.drop(self.norm(self.hidden(x)).relu()))
        return logits


@pytest.fixture
def data() -> TensorDataset:
    return TensorDataset(torch.randn(16, 4), torch.arange(16) % 3)


def bound(student: nn.Module, **arguments: Any) -> EMATeacher:
    teacher = EMATeacher(**arguments)
    teacher.set_student(student)
    return teacher


def distillation(decay: float = 0.9, **arguments: Any) -> CombinedDistillation:
    criteria = {"hard": HardTarget(), "soft": SoftTarget(1.0), "hint": Hint("hidden", "hidden")}
    weights = {"hard": 1.0, "soft": 1.0, "hint": 0.1}
    return CombinedDistillation(Net(), EMATeacher(decay, **arguments), criteria=criteria, weights=weights)


def test_three_updates_by_hand() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(1.0)
    teacher = bound(student, decay=0.9, warm_up=False)
    for step, weight in enumerate((2.0, 4.0, -1.0), 1):
        student.weight.data.fill_(weight)
        teacher.on_train_batch_end(student, step)
    # ((1 * .9 + 2 * .1) * .9 + 4 * .1) * .9 - 1 * .1
    assert teacher.model.weight.item() == pytest.approx(1.151)


def test_warming_up_is_the_mean_of_all_students() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(1.0)
    teacher = bound(student, decay=0.999)
    for step, weight in enumerate((2.0, 4.0, -3.0, 8.0), 1):
        student.weight.data.fill_(weight)
        teacher.on_train_batch_end(student, step)
    assert teacher.model.weight.item() == pytest.approx((1 + 2 + 4 - 3 + 8) / 5)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"decay": 0.9, "warm_up": False}, {1: 0.9, 1000: 0.9}),
        ({"decay": 0.9}, {1: 0.5, 2: 2 / 3, 9: 0.9, 1000: 0.9}),
        (
            {"decay": 0.996, "warm_up": False, "final_decay": 1.0, "steps": 100},
            {25: 1 - 0.004 * (1 + math.cos(math.pi / 4)) / 2, 50: 0.998, 100: 1.0, 200: 1.0},
        ),
        ({"decay": 0.8, "final_decay": 0.6, "steps": 10}, {1: 0.5, 5: 0.7, 10: 0.6}),
    ],
)
def test_share_kept(arguments: dict[str, Any], expected: dict[int, float]) -> None:
    teacher = EMATeacher(**arguments)
    assert {step: teacher.decay_at(step) for step in expected} == pytest.approx(expected)


def test_buffers_are_copied_and_weights_are_not() -> None:
    student = Net()
    teacher = bound(student, decay=0.9, warm_up=False)
    student(torch.randn(8, 4))
    student.hidden.weight.data += 1
    teacher.on_train_batch_end(student, 1)
    for (name, mine), other in zip(teacher.model.named_buffers(), student.buffers(), strict=True):
        assert torch.equal(mine, other), name
        assert mine.data_ptr() != other.data_ptr()
    difference = student.hidden.weight - teacher.model.hidden.weight  # type: ignore[union-attr, operator]
    torch.testing.assert_close(difference, torch.full_like(difference, 0.9))


def test_several_steps_at_once_are_as_many_updates() -> None:
    student, start = nn.Linear(3, 2), nn.Linear(3, 2)
    teachers = []
    for steps in ((1, 2, 3), (3,)):
        student.load_state_dict(start.state_dict())
        teacher = bound(student, decay=0.7)
        student.weight.data += 1
        for step in steps:
            teacher.on_train_batch_end(student, step)
        teachers.append(teacher)
    torch.testing.assert_close(teachers[0].model.weight, teachers[1].model.weight)


def test_nothing_moves_where_no_step_was_made() -> None:
    student = nn.Linear(3, 2)
    teacher = bound(student)
    before = teacher.model.weight.clone()  # type: ignore[operator]
    student.weight.data += 1
    teacher.on_train_batch_end(student, 0)
    assert torch.equal(teacher.model.weight, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_several_types(dtype: torch.dtype) -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(dtype))
    teacher = bound(student, decay=0.5, warm_up=False)
    before = copy.deepcopy(student)
    for parameter in student.parameters():
        parameter.data += 2
    teacher.on_train_batch_end(student, 1)
    for mine, start in zip(teacher.model.parameters(), before.parameters(), strict=True):
        assert mine.dtype == start.dtype
        torch.testing.assert_close(mine, start + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"in \[0, 1\), not 1.0"),
        ({"decay": -0.1}, r"in \[0, 1\), not -0.1"),
        ({"decay": math.nan}, r"in \[0, 1\), not nan"),
        ({"final_decay": 1.5}, r"final_decay, .* in \[0, 1\], not 1.5"),
        ({"steps": 10}, "steps is 10.*final_decay, which is None"),
        ({"final_decay": 1.0, "steps": 0}, "steps must be at least 1, not 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMATeacher(**arguments)


def test_a_share_that_changes_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match=r"keeps 5% of the teacher .* set decay to 0.95"):
        EMATeacher(0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EMATeacher(0.9)
        EMATeacher(0.0)


def test_it_has_to_be_bound() -> None:
    with pytest.raises(RuntimeError, match="no student yet"):
        EMATeacher()(torch.zeros(1, 4))


# In training -------------------------------------------------------------------------------------


def test_it_starts_as_the_student_and_shares_nothing() -> None:
    module = LogitDistillation(SmallCNN(2, 3), EMATeacher())
    assert module.teacher is module.joint_teacher
    ours = dict(module.joint_teacher.named_parameters())  # type: ignore[union-attr]
    for name, parameter in module.student.named_parameters():
        assert torch.equal(ours[name], parameter)
        assert ours[name].data_ptr() != parameter.data_ptr()
        assert not ours[name].requires_grad
    twin = copy.deepcopy(module)
    assert twin.joint_teacher is twin.teacher is not module.teacher


@pytest.mark.parametrize("accumulate", [1, 4])
def test_it_follows_once_for_each_optimizer_step(
    data: TensorDataset, accumulate: int, quick_trainer: Callable[..., Trainer]
) -> None:
    module = LogitDistillation(
        MLP(4, (5,), 3), EMATeacher(0.8, warm_up=False), criteria={"hard": HardTarget()}, weights={"hard": 1.0}
    )
    students = [copy.deepcopy(module.student)]
    module.on_before_zero_grad = lambda optimizer: students.append(copy.deepcopy(module.student))  # type: ignore[method-assign]
    steps = 8 // accumulate
    trainer = quick_trainer(max_epochs=2, accumulate_grad_batches=accumulate)
    trainer.fit(module, DataLoader(data, batch_size=4))
    assert trainer.global_step == steps
    # A step's gradients are cleared before it, so that the students seen there are those after the steps before.
    after = [*students[2:], module.student]
    assert len(after) == steps
    expected = students[0].hidden[0][0].weight.detach()  # type: ignore[index, union-attr]
    for student in after:
        expected = 0.8 * expected + 0.2 * student.hidden[0][0].weight.detach()  # type: ignore[index, union-attr]
    found = module.teacher.hidden[0][0].weight  # type: ignore[union-attr, index]
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, students[0].hidden[0][0].weight)  # type: ignore[index, union-attr]


def test_it_runs_in_eval_mode_without_gradients(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    module = distillation()
    modes: list[tuple[bool, bool]] = []

    def note(network: nn.Module, inputs: Any, output: Tensor) -> None:
        modes.append((network.training, output.requires_grad))

    assert module.teacher is not None
    module.teacher.register_forward_hook(note)
    loader = DataLoader(data, batch_size=8)
    quick_trainer(max_epochs=2).fit(module, loader, loader)
    assert len(modes) >= 8
    assert set(modes) == {(False, False)}
    held = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert not held & {id(parameter) for parameter in module.teacher.parameters()}


def trainer_for(make: Callable[..., Trainer], folder: Path, **arguments: Any) -> Trainer:
    every = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    return make(max_epochs=3, enable_checkpointing=True, callbacks=[every], default_root_dir=str(folder), **arguments)


@pytest.mark.filterwarnings("ignore:.*ended before the epoch ended.*", "ignore:.*The dirpath has changed.*")
@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("arguments", [{}, {"final_decay": 1.0}])
def test_resumed_equals_uninterrupted(
    data: TensorDataset, tmp_path: Path, step: int, arguments: dict[str, Any], quick_trainer: Callable[..., Trainer]
) -> None:
    """At the end of an epoch and in the middle of one, to the last bit.

    In the middle Lightning begins the epoch's data anew, so that its batches are made all the same, with no dropout.
    """
    x, target = data.tensors
    loader = DataLoader(TensorDataset(x[:4].repeat(4, 1), target[:4].repeat(4)) if step == 3 else data, batch_size=4)

    def module() -> CombinedDistillation:
        made = distillation(**arguments)
        for network in (made.student, made.teacher):
            network.drop.p = 0.5 if step == 4 else 0.0  # type: ignore[union-attr]
        return made

    whole = module()
    trainer_for(quick_trainer, tmp_path / "whole").fit(whole, loader)
    (saved,) = (tmp_path / "whole").glob(f"step={step}.ckpt")
    torch.manual_seed(99)
    resumed = module()
    trainer_for(quick_trainer, tmp_path / "resumed").fit(resumed, loader, ckpt_path=saved)
    state = resumed.state_dict()
    assert any(name.startswith("joint_teacher.") for name in state)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_the_fit_has_to_end_for_a_final_share(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    module = LogitDistillation(Net(), EMATeacher(final_decay=1.0))
    with pytest.raises(ValueError, match="reached at the end of the fit, which has none; set steps"):
        quick_trainer(max_epochs=-1).fit(module, DataLoader(data, batch_size=4))


def test_a_second_fit_goes_on(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    """With a new trainer, whose steps start at 0 again."""
    module = distillation()
    loader = DataLoader(data, batch_size=4)
    quick_trainer(max_epochs=1).fit(module, loader)
    between = copy.deepcopy(module.teacher.state_dict())  # type: ignore[union-attr]
    quick_trainer(max_epochs=1).fit(module, loader)
    assert not torch.equal(module.teacher.state_dict()["hidden.weight"], between["hidden.weight"])  # type: ignore[union-attr]
