"""Several networks as one: what is averaged, and that everything else takes it for a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    Capture,
    CombinedDistillation,
    FeatureDistillation,
    FrozenTeacher,
    HardTarget,
    Hint,
    LogitDistillation,
    RecordedTeacher,
    TeacherRuntime,
)
from lit_distill.criteria import EnsembleTarget
from lit_distill.criteria.soft_target import soft_target
from lit_distill.models import Ensemble, SmallCNN
from lit_distill.utils.compiling import compile_in_place

SHAPES = [(6, 4), (2, 5, 4), (2, 4, 3, 3)]  # classes, tokens, pixels


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def class_dim(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 4 else -1


class Fixed(nn.Module):
    """Returns what it was given, whatever comes in."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.output


def fixed(*outputs: Any) -> list[nn.Module]:
    return [Fixed(output) for output in outputs]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softened_logits_are_the_mixture_of_softened_distributions(shape: tuple[int, ...], temperature: float) -> None:
    members, dim = [draw(*shape, seed=seed) for seed in range(3)], class_dim(shape)
    found = Ensemble(fixed(*members), weights=[1.0, 2.0, 5.0], temperature=temperature)(None)
    shares = [torch.softmax(z / temperature, dim) for z in members]
    expected = (1 * shares[0] + 2 * shares[1] + 5 * shares[2]) / 8
    torch.testing.assert_close(torch.softmax(found / temperature, dim), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_criterion_sees_the_mixture_at_its_own_temperature(temperature: float) -> None:
    members, student = [draw(5, 4, seed=seed) for seed in range(2)], draw(5, 4, seed=9)
    logits = Ensemble(fixed(*members), temperature=temperature)(None)
    p_t = sum(torch.softmax(z / temperature, 1) for z in members) / 2
    log_s = torch.log_softmax(student / temperature, 1)
    expected = temperature**2 * (p_t * (p_t.log() - log_s)).sum(1).mean()
    torch.testing.assert_close(soft_target(student, logits, temperature), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_of_logits(shape: tuple[int, ...]) -> None:
    a, b = draw(*shape, seed=1), draw(*shape, seed=2)
    found = Ensemble(fixed(a, b), weights=[3.0, 1.0], average="logits")(None)
    torch.testing.assert_close(found, 0.75 * a + 0.25 * b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_confidence_by_hand(count: int, temperature: float) -> None:
    members = [draw(4, 5, seed=seed) for seed in range(count)]
    expected = []
    for row in range(4):
        p = [torch.softmax(z[row], 0).tolist() for z in members]
        entropies = [-sum(q * math.log(q) for q in one) for one in p]
        weights = [(1 - entropy / sum(entropies)) / (count - 1) for entropy in entropies]
        assert sum(weights) == pytest.approx(1)
        soft = [torch.softmax(z[row] / temperature, 0) for z in members]
        expected.append(sum(w * one for w, one in zip(weights, soft, strict=True)))
    found = Ensemble(fixed(*members), average="confidence", temperature=temperature)(None)
    torch.testing.assert_close(torch.softmax(found / temperature, 1), torch.stack(expected), rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_confidence_follows_the_certain_member(shape: tuple[int, ...]) -> None:
    dim = class_dim(shape)
    certain, lost = 50 * torch.eye(4, dtype=torch.float64)[torch.zeros(1, dtype=torch.long)], torch.zeros(shape)
    certain = (certain.view(1, 4, 1, 1) if len(shape) == 4 else certain).expand(shape)
    found = Ensemble(fixed(certain, lost), average="confidence")(None)
    torch.testing.assert_close(torch.softmax(found, dim), torch.softmax(certain, dim), rtol=0, atol=1e-9)


def test_members_that_are_all_certain_count_alike() -> None:
    a, b = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[0.0, 1e4, -1e4]])
    found = Ensemble(fixed(a, b), average="confidence")(None)
    torch.testing.assert_close(torch.softmax(found, 1), torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_weights_one_and_zero_are_the_first_member_to_the_last_bit(average: Any) -> None:
    a, b = draw(4, 3, seed=1).float(), draw(4, 3, seed=2).float()
    assert torch.equal(Ensemble(fixed(a, b), weights=[2.0, 0.0], average=average, temperature=4)(None), a)
    assert torch.equal(Ensemble(fixed(b, a), weights=[0.0, 1.0], average=average, temperature=4)(None), a)
    assert torch.equal(Ensemble(fixed(a), average=average)(None), a)


@pytest.mark.parametrize("average", ["probabilities", "logits", "confidence"])
def test_order_of_members_and_of_classes_changes_nothing(average: Any) -> None:
    members = [draw(4, 5, seed=seed) for seed in range(3)]
    found = Ensemble(fixed(*members), average=average)(None)
    torch.testing.assert_close(Ensemble(fixed(*members[::-1]), average=average)(None), found, rtol=1e-12, atol=1e-13)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = Ensemble(fixed(*(z[:, order] for z in members)), average=average)(None)
    torch.testing.assert_close(permuted, found[:, order], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("average", ["probabilities", "logits", "confidence"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(average: Any, dtype: torch.dtype) -> None:
    a = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]]).to(dtype).requires_grad_()
    b = torch.tensor([[-1e4, 1e4, 0.0], [0.0, 1.0, 2.0]]).to(dtype)
    found = Ensemble(fixed(a, b), average=average)(None)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    found.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sigmoids_are_mixed_class_by_class(task: Any, temperature: float) -> None:
    a, b = draw(4, 3, seed=1), draw(4, 3, seed=2)
    found = Ensemble(fixed(a, b), weights=[1.0, 3.0], temperature=temperature, task=task)(None)
    expected = 0.25 * torch.sigmoid(a / temperature) + 0.75 * torch.sigmoid(b / temperature)
    torch.testing.assert_close(torch.sigmoid(found / temperature), expected, rtol=1e-12, atol=0)


def test_confidence_of_sigmoids_is_by_class() -> None:
    found = Ensemble(
        fixed(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, -50.0]])), average="confidence", task="multilabel"
    )
    torch.testing.assert_close(torch.sigmoid(found(None)), torch.tensor([[1.0, 0.0]]), rtol=0, atol=1e-5)


def test_none_combines_nothing() -> None:
    a, b = draw(4, 3, seed=1), draw(4, 7, seed=2)
    found = Ensemble(fixed(a, {"logits": b}), average="none")(None)
    assert torch.equal(found[0], a)
    assert torch.equal(found[1], b)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 7)), "model 0 has 3 classes and model 2 7"),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)), "model 0 has 3 classes and model 1 5"),
        (
            (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)),
            r"model 0 gives logits \[2, 3, 4, 4\] and model 1 \[2, 3, 2, 2\]",
        ),
        ((torch.zeros(2, 3), torch.zeros(2)), r"model 0 gives logits \[2, 3\] and model 1 \[2\]"),
    ],
)
def test_different_classes_are_refused(outputs: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*set average to 'none'"):
        Ensemble(fixed(*outputs))(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "at least one"),
        ({"weights": [1.0]}, "1 weights for 2 networks"),
        ({"weights": [1.0, -1.0]}, r"weights\[1\] must be finite and at least 0, not -1.0"),
        ({"weights": [1.0, math.nan]}, r"weights\[1\] must be finite and at least 0, not nan"),
        ({"weights": [0.0, 0.0]}, "must not all be 0"),
        ({"weights": [1.0, 1.0], "average": "confidence"}, "weights do nothing with average 'confidence'"),
        ({"weights": [1.0, 1.0], "average": "none"}, "weights do nothing"),
        ({"average": "probability"}, "'probabilities', 'logits', 'confidence', 'none'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"task": "regression"}, "task must be one of"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ensemble(**{"models": [nn.Linear(2, 2), nn.Linear(2, 2)], **arguments})


def test_one_network_twice_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="models 0 and 2 of the ensemble are one and the same"):
        Ensemble([model, nn.Linear(2, 2), model])


class TwoInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor | None = None, *, c: Tensor | None = None) -> dict[str, Tensor]:
        total = a + (0 if b is None else 10 * b) + (0 if c is None else 100 * c)
        return {"loss": total.sum(), "scores": total}


def test_members_are_called_as_the_inputs_ask() -> None:
    ensemble = Ensemble([TwoInputs(), TwoInputs()], average="logits", output_key="scores")
    one = torch.ones(1, 1)
    assert ensemble(one).item() == 1
    assert ensemble(one, one).item() == 11
    assert ensemble(one, c=one).item() == 101
    assert ensemble(a=one, b=one, c=one).item() == 111


# As a teacher ------------------------------------------------------------------------------------


@pytest.fixture
def data() -> TensorDataset:
    return TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 3)


def members(count: int = 2) -> list[nn.Module]:
    return [SmallCNN(2 + 2 * index, 3).eval() for index in range(count)]


def test_members_and_their_layers_are_captured() -> None:
    models = members()
    ensemble, x = Ensemble(models), torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        outputs = Capture(ensemble, ["*", "0.stage3", "1.stage*"]).run(x)
        assert list(outputs.features) == ["0", "0.stage3", "1", "1.stage1", "1.stage2", "1.stage3"]
        for index, model in enumerate(models):
            assert torch.equal(outputs.features[str(index)], model(x))
        assert torch.equal(outputs.logits, ensemble(x))


def test_a_frozen_ensemble_stays_as_it_is(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    ensemble = Ensemble(members())
    start = copy.deepcopy(ensemble.state_dict())
    module = LogitDistillation(SmallCNN(2, 3), ensemble)
    quick_trainer(max_epochs=2).fit(module, DataLoader(data, batch_size=4))
    assert all(torch.equal(value, start[name]) for name, value in ensemble.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in ensemble.parameters())
    assert not any(name.startswith("joint_teacher") for name in module.state_dict())


@pytest.mark.parametrize("average", ["probabilities", "logits", "confidence", "none"])
@pytest.mark.parametrize(
    "runtime",
    [
        TeacherRuntime(fold_batch_norm=True, channels_last=True),
        TeacherRuntime("bf16"),
        TeacherRuntime("int8"),
        TeacherRuntime("int8_dynamic"),
    ],
    ids=["folded", "bf16", "int8", "int8_dynamic"],
)
def test_every_runtime_gives_nearly_the_same(
    data: TensorDataset, average: Any, runtime: TeacherRuntime, quick_trainer: Callable[..., Trainer]
) -> None:
    ensemble, (x, _) = Ensemble(members(), average=average), data.tensors
    teacher = FrozenTeacher(ensemble, runtime)
    teacher.capture_layers(["0", "1.stage3"])
    with teacher.capture.finding_overwrites():
        exact = teacher(x)
    teacher.prepare_runtime(lambda: [x])
    found = teacher(x)
    pairs = [(found.logits, exact.logits), *((found.features[name], exact.features[name]) for name in exact.features)]
    for ours, theirs in pairs:
        assert (ours.float() - theirs).norm() <= 0.06 * theirs.norm()


def test_folding_reaches_every_member() -> None:
    teacher = FrozenTeacher(Ensemble(members()), TeacherRuntime(fold_batch_norm=True))
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        exact = teacher.model(x)
    torch.testing.assert_close(teacher(x).logits, exact, rtol=1e-4, atol=1e-5)
    assert teacher._prepared is not None
    twin = teacher._prepared._read.func.__self__.model  # type: ignore[attr-defined]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())


def test_compiled() -> None:
    ensemble, x = Ensemble(members()), torch.rand(4, 1, 8, 8)
    capture = Capture(ensemble, ["0.stage3", "1"])
    with torch.no_grad():
        exact = capture.run(x)
        compile_in_place(ensemble, backend="eager")
        found = capture.run(x)
    torch.testing.assert_close(found.logits, exact.logits)
    for name, feature in exact.features.items():
        torch.testing.assert_close(found.features[name], feature)


def test_recorded(data: TensorDataset, tmp_path: Path, quick_trainer: Callable[..., Trainer]) -> None:
    """From a recording the student learns what it learns online, to the record's rounding."""
    start, models, ends = SmallCNN(2, 3).state_dict(), members(), []
    for wrap in (FrozenTeacher, lambda model: RecordedTeacher(model, path=str(tmp_path / "record"))):
        torch.manual_seed(1)
        student, ensemble = SmallCNN(2, 3), Ensemble(copy.deepcopy(models))
        student.load_state_dict(start)
        quick_trainer(max_epochs=2).fit(LogitDistillation(student, wrap(ensemble)), DataLoader(data, batch_size=4))
        ends.append(student.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=5e-3)


def test_hints_from_several_teachers_have_a_projector_each(
    data: TensorDataset, quick_trainer: Callable[..., Trainer]
) -> None:
    module = FeatureDistillation(
        SmallCNN(3, 3),
        Ensemble(members()),
        criteria={"hard": HardTarget(), "hint": Hint(["stage3", "stage3"], ["0.stage3", "1.stage3"])},
        weights={"hard": 1.0, "hint": 1.0},
    )
    hint = module.criteria["hint"]
    assert isinstance(hint, Hint)
    quick_trainer(max_epochs=1).fit(module, DataLoader(data, batch_size=4))
    assert hint.pairs == [("stage3", "0.stage3"), ("stage3", "1.stage3")]
    assert len(hint.projectors) == 2
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        student = Capture(module.student.eval(), ["stage3"]).run(x)
        teacher = Capture(module.teacher, ["0.stage3", "1.stage3"]).run(x)  # type: ignore[arg-type]
        expected = [
            (hint.projectors[index](student.features["stage3"]) - teacher.features[f"{index}.stage3"]).square().mean()
            for index in range(2)
        ]
        found = hint.eval()(student, teacher, None)
    torch.testing.assert_close(found, torch.stack(expected).mean())
    assert [len(next(projector.parameters())) for projector in hint.projectors] == [4, 8]


def test_teachers_of_different_tasks(data: TensorDataset, quick_trainer: Callable[..., Trainer]) -> None:
    """Nothing is averaged; each member is read as a layer, and the first one stands for the teacher."""
    ensemble = Ensemble([SmallCNN(4, 3), SmallCNN(4, 7)], average="none")
    criteria = {"hard": HardTarget(), "first": EnsembleTarget("0"), "second": Hint("stage3", "1.stage3")}
    module = CombinedDistillation(
        SmallCNN(2, 3), ensemble, criteria=criteria, weights={"hard": 1.0, "first": 1.0, "second": 1.0}
    )
    loader = DataLoader(data, batch_size=4)
    trainer = quick_trainer(max_epochs=1)
    trainer.fit(module, loader, loader)
    accuracy = (ensemble(data.tensors[0])[0].argmax(1) == data.tensors[1]).float().mean()
    assert trainer.callback_metrics["val/accuracy/teacher"].item() == pytest.approx(accuracy.item())


def test_it_says_what_it_is() -> None:
    shown = repr(Ensemble([nn.Linear(2, 2), nn.Linear(2, 2)], weights=[1.0, 3.0], temperature=4))
    assert "weights=[0.25, 0.75], average='probabilities', temperature=4" in shown
