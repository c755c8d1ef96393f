"""What each module does for each task: sensible defaults, or a refusal that says what to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lit_distill import (
    BatchFormat,
    CombinedDistillation,
    DistillationModule,
    FeatureDistillation,
    HardTarget,
    Hint,
    JointTeacher,
    LogitDistillation,
    MultiTaskDistillation,
    MutualDistillation,
    SelfDistillation,
    SoftTarget,
    SupervisedModule,
)
from lit_distill.criteria import DKD, LogitMSE, OnHead
from lit_distill.utils.notices import DistillationWarning
from tests.plain import quiet_trainer


def still(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def net(width: int = 4, out: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, out))


def loader(target: Tensor, inputs: Tensor | None = None) -> DataLoader[Any]:
    x = torch.randn(len(target), 4, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    return DataLoader(TensorDataset(x, target), batch_size=4)


def fit(module: LightningModule, data: DataLoader[Any]) -> Mapping[str, Tensor]:
    run = quiet_trainer(enable_checkpointing=False, num_sanity_val_steps=0)
    run.fit(module, data, data)
    return run.callback_metrics


def figures(found: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if name.startswith("val/")}


@pytest.mark.parametrize("out", [1, 3])
def test_a_regression_starts_with_two_squared_errors_and_reports_errors(out: int) -> None:
    student, teacher = net(out=out), net(8, out)
    data = loader(torch.randn(4, out) if out > 1 else torch.randn(4))
    x, y = data.dataset.tensors  # type: ignore[attr-defined]
    y = y.reshape(4, out)
    found = fit(LogitDistillation(student, teacher, task="regression", optimizer=still), data)
    s, t = student(x).detach(), teacher(x).detach()
    assert float(found["train/loss"]) == pytest.approx(float(0.1 * F.mse_loss(s, y) + 0.9 * F.mse_loss(s, t)), rel=1e-5)
    assert figures(found) == pytest.approx(
        {
            "val/mean_squared_error/student": float(F.mse_loss(s, y)),
            "val/mean_squared_error/teacher": float(F.mse_loss(t, y)),
            "val/mean_absolute_error/student": float(F.l1_loss(s, y)),
            "val/mean_absolute_error/teacher": float(F.l1_loss(t, y)),
            "val/mean_squared_difference": float(F.mse_loss(s, t)),
        },
        rel=1e-5,
    )
    assert float(found["hp_metric"]) == pytest.approx(float(F.mse_loss(s, y)), rel=1e-5)


def test_embeddings_start_with_the_teachers_vectors_and_report_their_cosine() -> None:
    student, teacher, data = net(out=6), net(8, 6), loader(torch.randint(0, 1000, (8,)))
    found = fit(LogitDistillation(student, teacher, task="embedding", optimizer=still), data)
    x = data.dataset.tensors[0]  # type: ignore[attr-defined]
    s, t = student(x).detach(), teacher(x).detach()
    assert figures(found) == pytest.approx({"val/cosine_similarity": float(F.cosine_similarity(s, t).mean())}, rel=1e-5)
    assert float(found["train/loss"]) == pytest.approx(float(F.mse_loss(s[4:], t[4:])), rel=1e-5)


class Unlabelled(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((4,), float(index))


def test_embeddings_need_no_labels() -> None:
    data: DataLoader[Any] = DataLoader(Unlabelled(), batch_size=4)
    assert set(figures(fit(LogitDistillation(net(), net(8), task="embedding"), data))) == {"val/cosine_similarity"}


@pytest.mark.parametrize("target", [torch.randint(0, 3, (8,)), torch.randn(8, 7), torch.randint(0, 1000, (8,))])
def test_the_task_none_takes_any_criteria_and_reports_nothing(target: Tensor) -> None:
    criteria = {"soft": SoftTarget(), "mse": LogitMSE()}
    module = LogitDistillation(net(), net(8), criteria=criteria, weights={"soft": 1.0, "mse": 1.0}, task="none")
    assert figures(fit(module, loader(target))) == {}


@pytest.mark.parametrize(
    ("task", "names"),
    [("regression", ["hard", "hint"]), ("embedding", ["hint"]), ("none", ["hint"]), ("multiclass", ["hard", "hint"])],
)
def test_features_are_matched_beside_the_labels_that_there_are(task: Any, names: list[str]) -> None:
    module = FeatureDistillation(net(), net(8), "1", "1", task=task)
    assert list(module.criteria.criteria()) == names
    target = torch.randn(8, 3) if task == "regression" else torch.randint(0, 3, (8,))
    fit(module, loader(target))


@pytest.mark.parametrize(
    ("task", "weights"),
    [("regression", {"hard": 0.1, "soft": 0.9, "hint": 1.0}), ("embedding", {"soft": 1.0, "hint": 1.0})],
)
def test_logits_and_features_together(task: Any, weights: dict[str, float]) -> None:
    module = CombinedDistillation(net(), net(8), "1", "1", task=task)
    assert module.criteria.weights == weights
    assert isinstance(module.criteria.criteria()["soft"], LogitMSE)
    fit(module, loader(torch.randn(8, 3) if task == "regression" else torch.randint(0, 9, (8,))))


def test_a_network_alone_is_trained_on_numbers() -> None:
    found = figures(fit(SupervisedModule(net(), task="regression"), loader(torch.randn(8, 3))))
    assert set(found) == {"val/mean_squared_error/student", "val/mean_absolute_error/student"}


def test_a_joint_teacher_learns_numbers_too() -> None:
    module = LogitDistillation(net(), JointTeacher(net(8), task="regression"), task="regression")
    assert "val/mean_squared_error/teacher" in fit(module, loader(torch.randn(8, 3)))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.size = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kind": self.kind(x), "size": self.size(x)}


class TwoLabels(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return torch.full((4,), float(index)), {"kind": index % 3, "size": float(index)}


def test_heads_of_classes_and_of_numbers_go_together() -> None:
    heads = {"kind": "kind", "size": "size"}
    task: Any = {"kind": "multiclass", "size": "regression"}
    module = MultiTaskDistillation(TwoHeads(), heads, TwoHeads(), task=task)
    found = figures(fit(module, DataLoader(TwoLabels(), batch_size=4)))
    assert {"val/kind/accuracy/student", "val/accuracy/student", "val/size/mean_squared_error/teacher"} <= set(found)
    assert found["val/accuracy/student"] == found["val/kind/accuracy/student"]
    assert not [name for name in found if name.startswith("val/size/acc")]


def test_a_head_that_is_an_embedding_has_no_labels() -> None:
    heads = {"kind": "kind", "size": "size"}
    task: Any = {"kind": "multiclass", "size": "embedding"}
    module = MultiTaskDistillation(TwoHeads(), heads, TwoHeads(), task=task)
    assert list(module.criteria.criteria()) == ["hard_kind", "soft_kind", "soft_size"]
    assert "val/size/cosine_similarity" in figures(fit(module, DataLoader(TwoLabels(), batch_size=4)))


CLASSES_AS_NUMBERS = {"soft": SoftTarget()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitDistillation(net(), net(), task="none"), "no default criteria for the task 'none'"),
        (lambda: CombinedDistillation(net(), net(), "1", "1", task="none"), "no default criteria for the task 'none'"),
        (
            lambda: LogitDistillation(net(), net(), task="regression", temperature=2.0),
            "temperature 2 applies to soft targets",
        ),
        (
            lambda: LogitDistillation(net(), net(), task="embedding", temperature=2.0),
            "temperature 2 applies to soft targets",
        ),
        (lambda: SupervisedModule(net(), task="embedding"), "SupervisedModule does not take the task 'embedding'"),
        (lambda: SupervisedModule(net(), task="none"), "SupervisedModule does not take the task 'none'"),
        (lambda: SupervisedModule(net(), 0.1, task="regression"), "label_smoothing and class_weights are of classes"),
        (lambda: MutualDistillation([net(), net()], task="regression"), "MutualDistillation does not take the task"),
        (lambda: SelfDistillation(net(), "1", task="regression"), "SelfDistillation does not take the task"),
        (
            lambda: MultiTaskDistillation(TwoHeads(), {"kind": "kind"}, TwoHeads(), task="regression", temperature=2.0),
            "temperature 2 applies to soft targets",
        ),
        (
            lambda: LogitDistillation(
                net(), net(), criteria=CLASSES_AS_NUMBERS, weights={"soft": 1.0}, task="regression"
            ),
            "'soft' .SoftTarget. is for the task 'multiclass', .* 'regression'.*LogitMSE",
        ),
        (
            lambda: LogitDistillation(net(), net(), criteria={"a": DKD()}, weights={"a": 1.0}, task="embedding"),
            "'a' .DKD. is for the task 'multiclass'.*LogitMSE",
        ),
        (
            lambda: DistillationModule(net(), net(), {"a": OnHead(HardTarget(), "1")}, {"a": 1.0}, task="binary"),
            r"OnHead\(HardTarget\). is for the task 'multiclass', and the module's task is 'binary'",
        ),
    ],
)
def test_what_does_not_fit_a_task_is_refused_when_the_module_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "target",
    [
        torch.randn(8, 3),  # numbers
        torch.randint(64, 1000, (8,)),  # identities beside an embedding
        torch.tensor([0, 1, 2, 0, 1, 2, 0, 64]),  # in the second batch alone
        torch.ones(8, 3),  # several classes
        torch.randint(0, 2, (8, 7)),  # of something else
    ],
)
def test_labels_that_are_no_classes_make_no_figures_and_are_told_once(target: Tensor) -> None:
    module = LogitDistillation(net(), net(8), criteria={"mse": LogitMSE()}, weights={"mse": 1.0})
    with pytest.warns(DistillationWarning, match="'regression'.*'embedding'.*'none'") as caught:
        found = fit(module, loader(target))
    assert figures(found) == {}
    assert len([one for one in caught if issubclass(one.category, DistillationWarning)]) == 1


@pytest.mark.parametrize("labels", [True, False])
def test_one_output_makes_no_accuracy(labels: bool) -> None:
    module = LogitDistillation(net(out=1), net(8, 1), criteria={"mse": LogitMSE()}, weights={"mse": 1.0})
    data: DataLoader[Any] = loader(torch.randn(8, 1)) if labels else DataLoader(Unlabelled(), batch_size=4)
    with pytest.warns(DistillationWarning, match="softmax over one class"):
        assert figures(fit(module, data)) == {}


def test_features_of_embeddings_train_beside_identities() -> None:
    module = FeatureDistillation(
        net(out=6), net(8, 6), criteria={"hint": Hint("2", "2", distance="cosine")}, weights={"hint": 1.0}
    )
    with pytest.warns(DistillationWarning, match="'embedding'"):
        assert figures(fit(module, loader(torch.randint(6, 1000, (8,))))) == {}


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "int64": lambda y: y,
    "int32": Tensor.int,
    "uint8": Tensor.byte,
    "column": lambda y: y.unsqueeze(1),
    "one-hot": lambda y: F.one_hot(y, 3),
    "one-hot floats": lambda y: F.one_hot(y, 3).float(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("criterion", ["default", "dkd"])
def test_every_form_of_labels_trains_and_measures_the_same(form: Callable[[Tensor], Tensor], criterion: str) -> None:
    torch.manual_seed(0)
    student, teacher, target = net(), net(8), torch.randint(0, 3, (8,))
    options: dict[str, Any] = {} if criterion == "default" else {"criteria": {"d": DKD()}, "weights": {"d": 1.0}}

    def run(labels: Tensor) -> dict[str, float]:
        found = fit(LogitDistillation(student, teacher, optimizer=still, **options), loader(labels))
        return {name: float(value) for name, value in found.items() if not name.startswith("throughput")}

    want, found = run(target), run(form(target))
    kept = [name for name in want if name.startswith(("val/", "train/loss", "train/criteria"))]
    assert {name: found[name] for name in kept} == pytest.approx({name: want[name] for name in kept}, rel=1e-5)


# Sizes, positions and outputs that are told ------------------------------------------------------


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d])
def test_logits_resized_to_the_labels_are_measured_of_both_networks(conv: Any) -> None:
    depth = 2 if conv is nn.Conv2d else 3
    student, teacher = conv(1, 3, 4, stride=4), conv(1, 3, 2, stride=2)
    x, y = torch.randn(4, 1, *[8] * depth), torch.randint(0, 3, (4, *[8] * depth))
    module = LogitDistillation(student, teacher, batch_format=BatchFormat(resize_logits=True), optimizer=still)
    found = figures(fit(module, loader(y, x)))
    mode = "bilinear" if depth == 2 else "trilinear"
    for who, network in (("student", student), ("teacher", teacher)):
        large = F.interpolate(network(x), size=y.shape[1:], mode=mode, align_corners=False)
        accuracy = (large.argmax(1) == y).float().mean()
        assert found[f"val/accuracy/{who}"] == pytest.approx(float(accuracy), rel=1e-5)
    assert "val/agreement" in found


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return hidden, self.head(hidden)


def test_outputs_without_logits_are_validated_where_none_are_read() -> None:
    def module(task: Any) -> FeatureDistillation:
        hint = {"hint": Hint("body", "body")}
        return FeatureDistillation(ManyOutputs(), ManyOutputs(), criteria=hint, weights={"hint": 1.0}, task=task)

    data: DataLoader[Any] = DataLoader(Unlabelled(), batch_size=4)
    assert figures(fit(module("none"), data)) == {}
    with pytest.warns(DistillationWarning, match="several tensors that could be the logits"):
        assert figures(fit(module("multiclass"), data)) == {}


def test_a_joint_teacher_of_another_task_is_named() -> None:
    module = LogitDistillation(net(), JointTeacher(net(8)), task="regression")
    with pytest.raises(ValueError, match=r"teacher's own loss, JointTeacher\(task='multiclass'\): .*task='regression'"):
        fit(module, loader(torch.randn(8, 3)))


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_a_batchs_sample_weights_weigh_the_labels_loss(task: Any) -> None:
    out = 3 if task == "multiclass" else 1
    student, weight = net(out=out), torch.tensor([0.0, 1.0, 2.0, 0.5])
    target = torch.randint(0, 2, (4,)) if task != "regression" else torch.randn(4)
    x = torch.randn(4, 4)
    rows = [{"x": a, "y": b, "w": w} for a, b, w in zip(x, target, weight, strict=True)]
    module = SupervisedModule(student, task=task, optimizer=still, batch_format=BatchFormat(weight_key="w"))
    found = fit(module, DataLoader(rows, batch_size=4))  # type: ignore[arg-type]
    z = student(x).detach()
    losses = {
        "multiclass": lambda: F.cross_entropy(z, target, reduction="none"),
        "binary": lambda: F.binary_cross_entropy_with_logits(z[:, 0], target.float(), reduction="none"),
        "regression": lambda: F.mse_loss(z[:, 0], target, reduction="none"),
    }[task]()
    assert float(found["train/loss"]) == pytest.approx(float((weight * losses).sum() / weight.sum()), rel=1e-5)
