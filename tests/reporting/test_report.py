"""Reports from Python: figures against computations of their own, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassCalibrationError, MulticlassF1Score

import lit_distill
from lit_distill.data import Digits
from lit_distill.models import SmallCNN
from lit_distill.reporting import StudentReport

QUICK: dict[str, Any] = {"timing_seconds": 0.001, "batch_size": 2}


def linear(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))


def loader(target: Tensor, size: int = 7) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(len(target), 4), target), size)


@pytest.fixture(scope="module")
def found() -> tuple[StudentReport, dict[str, nn.Module], DataLoader[Any]]:
    networks = {"student": linear(), "teacher": nn.Linear(4, 3), "no teacher": linear()}
    data = loader(torch.arange(30) % 3)
    made = lit_distill.report(
        networks["student"], networks["teacher"], data, control=networks["no teacher"],
        metrics={"f1": MulticlassF1Score(3)}, **QUICK,
    )  # fmt: skip
    return made, networks, data


def test_the_metrics_are_those_of_the_networks(found: Any) -> None:
    made, networks, data = found
    inputs, labels = data.dataset.tensors
    with torch.no_grad():
        logits = {role: network(inputs) for role, network in networks.items()}
    for role, own in logits.items():
        metrics = made.of(role).metrics
        assert metrics["accuracy"] == pytest.approx(float((own.argmax(1) == labels).float().mean()))
        error = MulticlassCalibrationError(3, n_bins=15)(own.softmax(1), labels)
        assert metrics["calibration_error"] == pytest.approx(float(error), abs=1e-6)
        assert metrics["cross_entropy"] == pytest.approx(float(nn.functional.cross_entropy(own, labels)), rel=1e-5)
        assert metrics["f1"] == pytest.approx(float(MulticlassF1Score(3)(own, labels)))
        assert sum(one.count for one in made.of(role).bins) == 30
        if role != "teacher":
            same = (own.argmax(1) == logits["teacher"].argmax(1)).float().mean()
            assert metrics["agreement"] == pytest.approx(float(same))
    for role in ("teacher", "no teacher"):
        gap = made.gap(role)
        assert gap.difference == pytest.approx(made.student.metrics["accuracy"] - made.of(role).metrics["accuracy"])


def test_the_costs_are_those_of_the_networks(found: Any) -> None:
    made, _, _ = found
    assert made.student.run.cost.macs == 4 * 8 + 8 * 3
    assert made.teacher.run.cost.macs == 12
    assert made.control.run == made.student.run
    settings = {(1, threads) for threads in (1, torch.get_num_threads())} | {(2, 1), (2, torch.get_num_threads())}
    assert {one.setting[:2] for one in made.student.run.latencies} == settings
    first = made.speedups()[0]
    assert first.factor == first.teacher.median_ms / first.student.median_ms


def test_text_markdown_and_json_say_the_same(found: Any) -> None:
    made, _, _ = found
    accuracy = f"{100 * made.student.metrics['accuracy']:.1f} %"
    assert accuracy in str(made)
    assert accuracy in made.markdown()
    assert "Did the teacher help?" in str(made)
    content = json.loads(json.dumps(made.plain()))
    assert content["networks"][0]["metrics"]["accuracy"] == made.student.metrics["accuracy"]
    assert content["gaps"][0]["against"] == "teacher"
    assert content["speedups"][0]["factor"] == made.speedups()[0].factor
    table = [line for line in made.markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {6}


def test_the_networks_stay_as_they_were() -> None:
    student, teacher, control = SmallCNN(4).train(), SmallCNN(4).train(), SmallCNN(4).eval()
    before = [{name: one.clone() for name, one in network.state_dict().items()} for network in (student, teacher)]
    data = DataLoader(TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6)), 3)
    lit_distill.report(student, teacher, data, control=control, **QUICK)
    assert [one.training for one in (student, teacher, control)] == [True, True, False]
    assert all(parameter.requires_grad for network in (student, teacher) for parameter in network.parameters())
    for network, state in zip((student, teacher), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.modules())


def test_numbers_have_an_error_in_place_of_an_accuracy() -> None:
    student, teacher, control = (nn.Linear(4, 1) for _ in range(3))
    data = loader(torch.randn(20, 1))
    made = lit_distill.report(student, teacher, data, control=control, task="regression", **QUICK)
    inputs, labels = data.dataset.tensors  # type: ignore[attr-defined]
    with torch.no_grad():
        error = float((student(inputs) - labels).square().mean())
    assert made.student.metrics["mean_squared_error"] == pytest.approx(error)
    assert "accuracy" not in made.student.metrics
    gap = made.gap("teacher")
    assert gap is not None
    assert gap.metric == "mean_squared_error"
    assert "mean squared error" in str(made)


def test_vectors_are_compared_with_the_teachers() -> None:
    made = lit_distill.report(
        nn.Linear(4, 3), nn.Linear(4, 3), DataLoader(torch.randn(10, 4), 5), control=nn.Linear(4, 3), task="embedding",
        **QUICK,
    )  # fmt: skip
    assert set(made.student.metrics) == {"cosine_similarity"}
    assert made.gap("teacher") is None
    control = made.gap("no teacher")
    assert control is not None
    assert control.difference == pytest.approx(
        made.student.metrics["cosine_similarity"] - made.control.metrics["cosine_similarity"], abs=1e-6
    )


def test_sequences_are_judged_by_position_and_compared_by_sequence() -> None:
    class Tags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.words(x))
            return out

    batch = [{"x": torch.randint(9, (5, 6)), "labels": torch.randint(4, (5, 6)), "attention_mask": torch.ones(5, 6)}]
    batch[0]["attention_mask"][:, 4:] = 0
    student, teacher, control = Tags(), Tags(), Tags()
    made = lit_distill.report(student, teacher, batch, control=control, **QUICK)
    with torch.no_grad():
        right = (student(batch[0]["x"]).argmax(-1) == batch[0]["labels"])[:, :4]
    assert made.student.metrics["accuracy"] == pytest.approx(float(right.float().mean()))
    gap = made.gap("teacher")
    assert gap is not None
    assert gap.samples == 5


def test_a_teacher_with_other_classes_is_only_measured() -> None:
    made = lit_distill.report(linear(3), linear(5), loader(torch.arange(9) % 3), control=linear(3), **QUICK)
    assert made.teacher.metrics == {}
    assert made.teacher.run is not None
    assert made.gap("teacher") is None
    assert "another form" in str(made)


def test_the_digits_are_reported_as_the_trainer_reports_them(quick_trainer: Any) -> None:
    data = Digits()
    data.setup("test")
    student, teacher = SmallCNN(4), SmallCNN(8)
    made = lit_distill.report(student, teacher, data.test_dataloader(), control=SmallCNN(4), **QUICK)
    module = lit_distill.LogitDistillation(student, teacher)
    logged = quick_trainer().test(module, data, verbose=False)[0]
    for name in ("accuracy", "calibration_error", "cross_entropy"):
        assert made.student.metrics[name] == pytest.approx(logged[f"test/{name}/student"], rel=1e-5)
        assert made.teacher.metrics[name] == pytest.approx(logged[f"test/{name}/teacher"], rel=1e-5)
    assert made.student.metrics["agreement"] == pytest.approx(logged["test/agreement"])


LABELS = torch.arange(6) % 3
ONE = linear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": None}, r"needs the control.*train the same network without a teacher"),
        ({"control": ONE, "student": ONE}, "student and the control are one and the same network"),
        ({"teacher": ONE, "control": ONE}, "teacher and the control are one and the same"),
        ({"loader": DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0)))}, "loader of the test data is empty"),
        ({"loader": [torch.zeros(2, 4)]}, "no labels"),
        ({"loader": loader(torch.arange(6))}, "do not fit the task 'multiclass': label 3 is no class"),
        ({"loader": loader(torch.randn(6, 1))}, "do not fit the task 'multiclass'"),
        ({"task": "multi-class"}, "Did you mean 'multiclass'"),
        ({"task": "none"}, "the task 'none' has no metrics of its own: give metrics="),
        ({"batch_size": 0}, "batch_size"),
        ({"timing_seconds": 0}, "timing_seconds"),
        ({"metrics": {"accuracy": MulticlassF1Score(3)}}, "'accuracy' is reported anyway"),
        ({"metrics": {"f1": MulticlassF1Score(3, average=None)}}, "only a single number"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    given = {"student": linear(), "teacher": linear(), "loader": loader(LABELS), "control": linear(), **QUICK}
    with pytest.raises(ValueError, match=message):
        lit_distill.report(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loader": Digits()}, "is a LightningDataModule; give its loader"),
        ({"loader": 3}, "yields no batches"),
        ({"teacher": "resnet20"}, "teacher"),
        ({"control": nn.Linear}, "control"),
    ],
)
def test_bad_kinds_are_refused(changes: dict[str, Any], message: str) -> None:
    given = {"student": linear(), "teacher": linear(), "loader": loader(LABELS), "control": linear(), **QUICK}
    with pytest.raises(TypeError, match=message):
        lit_distill.report(**{**given, **changes})
