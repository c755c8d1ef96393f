import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import DistillationModule
from lit_distill.criteria import HardTarget, OwnTeacher
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.own_teacher import own_teacher
from lit_distill.models import SmallCNN
from lit_distill.outputs import Outputs

LABELS = torch.tensor([2, 0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student(**changed: Tensor) -> Outputs:
    features = {"early": draw(2, 3, 4, 4, seed=1), "late": draw(2, 6, 2, 2, seed=2), "deep": draw(2, 5, 2, 2, seed=3)}
    logits = changed.pop("logits", draw(2, 4))
    return Outputs(logits, {**features, **changed})


def value_of(criterion: OwnTeacher, outputs: Outputs, target: Tensor | None = LABELS) -> Tensor:
    value: Tensor = criterion(outputs, Outputs.nothing(), target)
    return value


def built(outputs: Outputs, layers: str | list[str] = "early", **settings: Any) -> OwnTeacher:
    criterion = OwnTeacher(layers, **settings)
    criterion.build(outputs, Outputs.nothing())
    return criterion.double()


def softened(row: list[float], temperature: float) -> list[float]:
    weights = [math.exp(z / temperature) for z in row]
    return [w / sum(weights) for w in weights]


def exit_by_hand(early: Tensor, deepest: Tensor, labels: Tensor, alpha: float, temperature: float) -> float:
    total = 0.0
    for row, deep, label in zip(early.tolist(), deepest.tolist(), labels.tolist(), strict=True):
        hard = -math.log(softened(row, 1.0)[label])
        p, q = softened(deep, temperature), softened(row, temperature)
        soft = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += (1 - alpha) * hard + alpha * soft
    return total / len(early)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_an_exits_loss_equals_a_hand_computation(alpha: float, temperature: float) -> None:
    early, deepest = draw(2, 4, seed=1), draw(2, 4)
    expected = exit_by_hand(early, deepest, LABELS, alpha, temperature)
    assert own_teacher(early, deepest, LABELS, alpha, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_exits_are_summed_and_features_are_matched() -> None:
    outputs = student()
    criterion = built(outputs, ["early", "late"], deepest_layer="deep", feature_weight=0.5)
    expected = 0.0
    for index, name in enumerate(("early", "late")):
        exit_, projector = criterion.exits[index], criterion.projectors[index].linear
        logits = outputs.features[name].mean((2, 3)) @ exit_.weight.T + exit_.bias
        expected += exit_by_hand(logits, outputs.logits, LABELS, 0.3, 3.0)
        small = F.avg_pool2d(outputs.features[name], 2) if name == "early" else outputs.features[name]
        projected = torch.einsum("oc,bchw->bohw", projector.weight[:, :, 0, 0], small) + projector.bias[:, None, None]
        expected += 0.5 * (projected - outputs.features["deep"]).square().mean().item()
    assert value_of(criterion, outputs).item() == pytest.approx(expected, rel=1e-12)


def test_the_deepest_exit_and_feature_get_no_gradient() -> None:
    outputs = student(logits=draw(2, 4).requires_grad_(), deep=draw(2, 5, 2, 2).requires_grad_())
    outputs.features["early"].requires_grad_()
    criterion = built(outputs, deepest_layer="deep")
    value_of(criterion, outputs).backward()
    assert outputs.logits.grad is None
    assert outputs.features["deep"].grad is None
    early = outputs.features["early"].grad
    assert early is not None
    assert early.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


def test_the_soft_part_is_zero_where_an_exit_says_what_the_deepest_says() -> None:
    early = draw(2, 4).requires_grad_()
    value = own_teacher(early, draw(2, 4), LABELS, alpha=1.0)
    value.backward()
    assert abs(value.item()) < 1e-14
    assert early.grad is not None
    assert early.grad.abs().max() < 1e-14


@pytest.mark.parametrize("shape", [(2, 3), (2, 7, 3), (2, 3, 4, 5)])
def test_every_kind_of_feature_is_pooled(shape: tuple[int, ...]) -> None:
    feature = draw(*shape)
    expected = feature if len(shape) == 2 else feature.mean(1) if len(shape) == 3 else feature.flatten(2).mean(2)
    torch.testing.assert_close(pooled(feature), expected)
    outputs = student(early=feature)
    assert built(outputs).exits[0].weight.shape == (4, 3)
    assert value_of(built(outputs), outputs).isfinite()


@pytest.mark.parametrize(("task", "shape"), [("binary", (2,)), ("binary", (2, 1)), ("multilabel", (2, 3))])
def test_tasks_of_a_sigmoid(task: Any, shape: tuple[int, ...]) -> None:
    outputs = student(logits=draw(*shape))
    target = torch.randint(0, 2, shape)
    criterion = built(outputs, task=task, alpha=0.4, temperature=2.0)
    exit_ = criterion.exits[0]
    logits = (outputs.features["early"].mean((2, 3)) @ exit_.weight.T + exit_.bias).reshape(shape)
    hard = F.binary_cross_entropy_with_logits(logits, target.double())
    p, q = (outputs.logits / 2).sigmoid(), (logits / 2).sigmoid()
    soft = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(value_of(criterion, outputs, target), 0.6 * hard + 0.4 * soft, rtol=1e-9, atol=0)


def test_unknown_labels_leave_the_soft_part() -> None:
    outputs = student()
    criterion = built(outputs)
    exit_ = criterion.exits[0]
    logits = outputs.features["early"].mean((2, 3)) @ exit_.weight.T + exit_.bias
    value = value_of(criterion, outputs, torch.full((2,), -100))
    expected = exit_by_hand(logits, outputs.logits, LABELS, 1.0, 3.0) * 0.3
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_a_glob_makes_an_exit_for_each_layer_and_is_built_once() -> None:
    outputs = Outputs(draw(2, 4), {"stage1": draw(2, 3), "stage2": draw(2, 5)})
    criterion = built(outputs, "stage*")
    weights = [exit_.weight for exit_ in criterion.exits]
    assert [weight.shape[1] for weight in weights] == [3, 5]
    criterion.build(outputs, Outputs.nothing())
    assert all(a is b.weight for a, b in zip(weights, criterion.exits, strict=True))


def test_half_features_and_extreme_logits_stay_finite() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        feature = torch.full((2, 3, 4, 4), 1e4, dtype=dtype, requires_grad=True)
        logits = torch.tensor([[1e4, -1e4, 0.0]] * 2, dtype=dtype)
        outputs = Outputs(logits, {"early": feature})
        criterion = OwnTeacher("early")
        value = value_of(criterion, outputs, torch.tensor([1, 2]))
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert feature.grad is not None
        assert feature.grad.isfinite().all()


def test_it_needs_labels_and_no_teacher() -> None:
    criterion = OwnTeacher(["early", "late"], "deep")
    assert criterion.student_layers == ("early", "late", "deep")
    assert not criterion.teacher_layers
    assert criterion.needs_target
    assert not criterion.needs_teacher
    with pytest.raises(ValueError, match="needs labels"):
        value_of(criterion, student(), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], not 1.5"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"feature_weight": -1.0}, "feature_weight must be finite and at least 0, not -1.0"),
        ({"task": "regression"}, "task must be one of"),
        ({"student_layer": []}, "student_layer names no layer"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnTeacher(**{"student_layer": "early", **settings})


def test_dense_logits_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"whole samples, logits \[B, C\]; these are \[2, 4, 3, 3\]"):
        built(student(logits=draw(2, 4, 3, 3)))


@pytest.mark.parametrize("deepest", ["early", "*"])
def test_a_deepest_layer_that_is_an_exit_or_several_is_refused(deepest: str) -> None:
    with pytest.raises(ValueError, match="deepest_layer must name one layer that is not an exit"):
        built(student(), deepest_layer=deepest)


def distillation(student: SmallCNN, **weights: float) -> DistillationModule:
    criteria = {"hard": HardTarget(), "own": OwnTeacher(["stage1", "stage2"], "stage3")}
    return DistillationModule(student, None, criteria, {"hard": 1.0, "own": 1.0, **weights})


def images() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 3)
    return DataLoader(data, batch_size=8, shuffle=True)


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.slow
def test_exits_are_trained_saved_resumed_exactly_and_left_out_of_the_student(
    quick_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    def make() -> DistillationModule:
        torch.manual_seed(0)
        return distillation(SmallCNN(4, 3))

    whole = make()
    quick_trainer(max_epochs=4).fit(whole, images())
    first, path = quick_trainer(max_epochs=2), tmp_path / "half.ckpt"
    half = make()
    first.fit(half, images())
    first.save_checkpoint(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    exits = {name for name in state if name.startswith("criteria.own.exits.")}
    assert exits == {f"criteria.own.exits.{index}.{kind}" for index in (0, 1) for kind in ("weight", "bias")}
    assert {name for name in state if name not in exits and "projectors" not in name} == {
        f"student.{name}" for name in SmallCNN(4, 3).state_dict()
    }
    second = make()
    quick_trainer(max_epochs=4).fit(second, images(), ckpt_path=path)
    assert all(torch.equal(value, copied(second)[name]) for name, value in copied(whole).items())
    assert all(not torch.equal(value, copied(half)[name]) for name, value in copied(whole).items() if name in exits)
    SmallCNN(4, 3).load_state_dict(whole.student.state_dict(), strict=True)


def test_a_weight_of_zero_is_training_on_labels_alone(quick_trainer: Callable[..., Trainer]) -> None:
    students = []
    for criteria in ({"hard": HardTarget()}, {"hard": HardTarget(), "own": OwnTeacher(["stage1"], "stage3")}):
        torch.manual_seed(0)
        students.append(SmallCNN(4, 3))
        weights = {name: float(name == "hard") for name in criteria}
        quick_trainer().fit(DistillationModule(students[-1], None, criteria, weights), images())
    assert all(torch.equal(value, copied(students[1])[name]) for name, value in copied(students[0]).items())
