"""DOT against plain loops in float64 that keep the two velocities by two backward passes."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill import Distill, DistillationModule, GradientNorm, HardTarget, SoftTarget
from lit_distill.cli.command import main
from lit_distill.engine.task_gradient import hold_task_gradient
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.optim import DOT
from lit_distill.outputs import Outputs
from lit_distill.schedules import Between
from tests.callbacks.guests import fit, saving, theirs, weights
from tests.callbacks.guests import teacher as their_teacher
from tests.optim.loops import (
    LR,
    OURS,
    SGD,
    Loop,
    T,
    WithDOT,
    all_close,
    before,
    by_hand,
    data,
    fitted,
    make,
    networks,
    soft,
    trained,
)

# The formula -----------------------------------------------------------------------------------------


def test_three_steps_by_hand() -> None:
    theta = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = DOT([theta], lr=0.5, momentum=0.8, delta=0.1, weight_decay=0.01)
    value, task, distill = 1.0, 0.0, 0.0
    for g_task, g_distill in ((2.0, -3.0), (0.5, 1.0), (-1.0, 4.0)):
        optimizer.hold({theta: torch.tensor([g_task], dtype=torch.float64)})
        theta.grad = torch.tensor([g_task + g_distill], dtype=torch.float64)
        optimizer.step()
        task = 0.7 * task + g_task + 0.01 * value
        distill = 0.9 * distill + g_distill
        value -= 0.5 * (task + distill)
        assert theta.item() == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_is_two_loops(tmp_path: Path, accumulate: int) -> None:
    module = fitted(OURS, tmp_path, accumulate_grad_batches=accumulate)
    expected = by_hand(before(tmp_path), accumulate)
    all_close(trained(module), expected)
    plain = fitted(SGD, tmp_path, accumulate_grad_batches=accumulate)
    assert max((a - b).abs().max().item() for a, b in zip(trained(module), trained(plain), strict=True)) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_delta_it_is_sgd(tmp_path: Path, accumulate: int) -> None:
    module = fitted(partial(OURS, delta=0.0), tmp_path, accumulate_grad_batches=accumulate)
    all_close(trained(module), trained(fitted(SGD, tmp_path, accumulate_grad_batches=accumulate)))


def test_a_teacher_that_starts_late(tmp_path: Path) -> None:
    late = {f"{name}.weight": Between(weight, begin=3, unit="step") for name, weight in (("soft", 0.6), ("hint", 2.0))}
    expected = by_hand(before(tmp_path), 1, starts=3)
    module = fitted(OURS, tmp_path, schedules=late)
    all_close(trained(module), expected)


def test_a_balance_weighs_the_task_gradient_too() -> None:
    student, teacher = networks()
    rows, labels = next(iter(data()))
    criteria = WeightedCriteria(
        {"hard": HardTarget(), "soft": SoftTarget(T)}, {"hard": 0.4, "soft": 0.6}, balance=GradientNorm("soft")
    )
    optimizer = DOT(student.parameters(), lr=0.0, momentum=0.0, delta=0.0)
    trainer = SimpleNamespace(optimizers=[optimizer], accumulate_grad_batches=2)
    logits = student(rows)
    losses = criteria(Outputs(logits), Outputs(teacher(rows).detach()), labels, list(student.parameters()))
    hold_task_gradient(trainer, criteria, [losses])  # type: ignore[arg-type]
    losses.total.backward()
    optimizer.step()
    wanted = torch.autograd.grad(F.cross_entropy(student(rows), labels), list(student.parameters()))
    assert abs(losses.weights["hard"] - 0.4) > 0.05
    for parameter, gradient in zip(student.parameters(), wanted, strict=True):
        held = optimizer.state[parameter]["momentum_task"]
        torch.testing.assert_close(held, losses.weights["hard"] * gradient / 2)
        whole = held + optimizer.state[parameter]["momentum_distill"]
        torch.testing.assert_close(whole, parameter.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", [SGD, partial(DOT, delta=0.0)])
def test_a_found_weight_is_smaller_by_how_much_longer_the_teacher_is_remembered(tmp_path: Path, optimizer: Any) -> None:
    found = []
    for each in (optimizer, partial(DOT, delta=0.075)):
        module = make(partial(each, lr=0.0, momentum=0.9), weights={"hard": 0.4, "soft": "auto", "hint": 2.0})
        trainer = fit(module, None, tmp_path, precision="64-true", data=data())
        found.append(
            {name: float(trainer.callback_metrics[f"train/weight/{name}"]) for name in ("hard", "soft", "hint")}
        )
    plain, dot = found
    assert dot["soft"] == pytest.approx(plain["soft"] * (1 - 0.9 - 0.075) / (1 - 0.9 + 0.075), rel=1e-6)
    assert (dot["hard"], dot["hint"]) == (plain["hard"], plain["hint"])


@pytest.mark.filterwarnings("ignore:DOT differentiates each step twice")
def test_a_compiled_student(tmp_path: Path) -> None:
    torch.compiler.reset()
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double()
        criteria = {"hard": HardTarget(), "soft": SoftTarget(T)}
        late = {"soft.weight": Between(0.6, begin=2, unit="step")}  # the first backward pass is not followed by another
        module = DistillationModule(student, networks()[1], criteria, {"hard": 0.4}, optimizer=OURS, schedules=late)
        if compiled:
            student.compile(backend="aot_eager")
        fit(module, None, tmp_path, precision="64-true", data=data())
        found.append(list(student.parameters()))
    all_close(*found)


# Checkpoints -----------------------------------------------------------------------------------------


def test_resume_is_exact(tmp_path: Path) -> None:
    def run(**options: Any) -> list[Tensor]:
        module = make(OURS, torch.float32)
        fit(module, None, tmp_path, data=data(torch.float32), **options)
        return trained(module)

    whole = run(max_epochs=4)
    run(max_epochs=2, enable_checkpointing=True, callbacks=[saving(tmp_path)])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = saved["optimizer_states"][0]["state"]
    assert set(state[0]) == {"momentum_task", "momentum_distill"}
    assert set(state[len(state) - 1]) == {"momentum_task"}  # the projector's
    resumed = run(
        max_epochs=4, ckpt_path=tmp_path / "last.ckpt", enable_checkpointing=True, callbacks=[saving(tmp_path)]
    )
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_copy_holds_nothing_and_has_the_velocities() -> None:
    theta = nn.Parameter(torch.ones(2))
    optimizer = DOT([theta], lr=0.1)
    optimizer.hold({theta: torch.ones(2)})
    theta.grad = torch.full((2,), 3.0)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    (other,) = copied.param_groups[0]["params"]
    assert torch.equal(copied.state[other]["momentum_distill"], torch.full((2,), 2.0))
    other.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="was given none for this step"):
        copied.step()


# Other hosts -----------------------------------------------------------------------------------------


class Plain(nn.Sequential):
    """Without BatchNorm or dropout, so that a loop by hand sees what the fit sees."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def test_distill_on_a_module_of_theirs(tmp_path: Path) -> None:
    module = theirs(WithDOT)
    module.model = Plain().double()
    model, teacher = copy.deepcopy(module.model), their_teacher().double().eval()
    guest = Distill(teacher, {"soft": SoftTarget(T)}, {"task": 0.5, "soft": 0.9}, call="all")
    fit(module, guest, tmp_path, precision="64-true", data=data(), max_epochs=1)
    loop = Loop(list(model.parameters()))
    for rows, labels in data():
        views = (rows, rows.flip(1))
        task = torch.stack([F.cross_entropy(model(view), labels) for view in views]).sum()
        taught = torch.stack([soft(model(view), teacher(view).detach()) for view in views]).mean()
        loop.step([(0.5 * task, 0.9 * taught)])
    all_close(list(module.model.parameters()), loop.parameters)


class Idle(WithDOT):
    """A step that leaves the student alone on every other batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(p.square().sum() for p in self.model.parameters()) if batch_idx % 2 else self.first(batch)

    def first(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore:a training step did not call")
def test_a_batch_that_distils_nothing_is_a_step_of_sgd(tmp_path: Path) -> None:
    found = []
    for delta in (0.0, 0.075):
        module = theirs(Idle)
        module.configure_optimizers = lambda module=module, delta=delta: DOT(module.model.parameters(), LR, 0.9, delta)
        fit(module, Distill(their_teacher()), tmp_path, max_epochs=1, limit_train_batches=2)
        found.append(weights(module.model))
    # Two steps: velocities after the first are the gradients alone, and the second decays both by μ.
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_the_command_line_builds_it_and_adds_projectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(_CONFIG)
    main(["fit", "--config", "config.yaml"])
    (saved,) = tmp_path.rglob("*.ckpt")
    (found,) = torch.load(saved, weights_only=True)["optimizer_states"]
    assert found["param_groups"][0]["delta"] == 0.09
    assert len(found["state"]) == len(found["param_groups"][0]["params"])
    kinds = [set(state) for state in found["state"].values()]
    assert {"momentum_task", "momentum_distill"} in kinds
    assert {"momentum_task"} in kinds


_CONFIG = """
seed_everything: 0
trainer: {accelerator: cpu, max_epochs: 1, limit_train_batches: 2, limit_val_batches: 0, logger: false,
  enable_progress_bar: false, enable_model_summary: false}
model:
  class_path: lit_distill.CombinedDistillation
  init_args:
    student: {class_path: lit_distill.models.MLP, init_args: {in_features: 192, hidden: [4]}}
    teacher: {class_path: lit_distill.models.MLP, init_args: {in_features: 192, hidden: [6]}}
    criteria:
      hard: {class_path: lit_distill.HardTarget}
      soft: {class_path: lit_distill.SoftTarget}
      hint: {class_path: lit_distill.Hint, init_args: {student_layer: hidden, teacher_layer: hidden}}
    weights: {hard: 0.1, soft: 0.9, hint: 1.0}
data: {class_path: tests.doctor.test_shipped.NoiseImages}
optimizer: {class_path: lit_distill.optim.DOT, init_args: {lr: 0.1, delta: 0.09}}
"""
