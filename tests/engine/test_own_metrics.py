"""The user's torchmetrics: of which network, updated with what, and under which name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, Metric, MetricCollection, R2Score
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassRecall,
    MultilabelF1Score,
)
from torchmetrics.functional import f1_score, jaccard_index
from torchmetrics.wrappers import ClasswiseWrapper

from lit_distill import LogitDistillation, SupervisedModule
from lit_distill.batch.batch import Batch
from lit_distill.batch.labels import Task
from lit_distill.engine.evaluator import Evaluator
from lit_distill.engine.own_metrics import as_metrics_take_them
from lit_distill.teachers import FrozenTeacher
from tests.plain import quiet_trainer


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_both_networks_are_measured_and_nothing_of_it_is_in_a_checkpoint(tmp_path: Path) -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    x, y = draw(20, 4), torch.randint(0, 3, (20,))
    metric = MulticlassF1Score(3, average="macro")
    module = LogitDistillation(student, teacher, metrics={"f1": metric})
    run = quiet_trainer(max_epochs=2, default_root_dir=tmp_path)
    data = DataLoader(TensorDataset(x, y), batch_size=8)
    run.fit(module, data, data)
    for who, network in (("student", student), ("teacher", teacher)):
        want = f1_score(network(x), y, "multiclass", num_classes=3, average="macro")
        assert float(run.callback_metrics[f"val/f1/{who}"]) == pytest.approx(float(want), rel=1e-6)
    assert metric.update_count == 0  # the user's object stays as it was
    saved = torch.load(run.checkpoint_callback.best_model_path, weights_only=True)  # type: ignore[union-attr]
    assert not [name for name in saved["state_dict"] if "f1" in name or "metric" in name]
    assert "val/accuracy/student" in run.callback_metrics


def test_a_collection_logs_each_of_its_metrics() -> None:
    metrics = MetricCollection([MulticlassF1Score(3), MulticlassRecall(3)], prefix="my_")
    evaluator = Evaluator("multiclass", None, metrics=metrics)
    evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4), torch.arange(6) % 3))
    assert {"val/my_MulticlassF1Score/student", "val/my_MulticlassRecall/student"} <= set(evaluator.finish("val"))


def test_a_collection_under_a_name_puts_it_before_its_metrics() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"own": MetricCollection({"f1": MulticlassF1Score(3)})})  # type: ignore[dict-item]
    evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4), torch.arange(6) % 3))
    assert "val/own/f1/student" in evaluator.finish("val")


def test_a_metric_of_several_numbers_logs_each_by_its_name() -> None:
    metric = ClasswiseWrapper(MulticlassRecall(3, average=None), labels=["cat", "dog", "owl"], prefix="recall_")
    evaluator = Evaluator("multiclass", None, metrics={"each": metric})
    evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4), torch.arange(6) % 3))
    assert "val/each/recall_dog/student" in evaluator.finish("val")


def test_a_metric_that_is_no_number_is_refused_by_its_name() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"confusion": MulticlassConfusionMatrix(3)})
    evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4), torch.arange(6) % 3))
    with pytest.raises(ValueError, match=r"metric 'confusion' gives a tensor of shape \[3, 3\].*ClasswiseWrapper"):
        evaluator.finish("val")


def test_epochs_and_loaders_are_apart() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"recall": MulticlassRecall(2, average="micro")})
    right, wrong = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0, 1.0], [0, 1]])
    data = Batch(draw(2, 4), torch.zeros(2).long())
    for _ in range(2):
        evaluator.update(("val", 0, 0), right, data)
        evaluator.update(("val", 1, 0), wrong, data)
        found = evaluator.finish("val")
        assert found["val/recall/student/loader_0"] == 1
        assert found["val/recall/student/loader_1"] == 0


def test_of_several_heads_each_has_its_own_or_all_the_same() -> None:
    metrics: dict[str, Metric] = {
        "a/f1": MulticlassF1Score(2),
        "b/f1": MulticlassF1Score(3),
        "recall": MulticlassRecall(2),
    }
    evaluator = Evaluator(
        {"a": "multiclass", "b": "multiclass"}, None, metrics={k: metrics[k] for k in ("a/f1", "b/f1")}
    )
    target = {"a": torch.tensor([0, 1]), "b": torch.tensor([2, 1])}
    evaluator.update(("val", 0, 0), {"a": draw(2, 2), "b": draw(2, 3)}, Batch(draw(2, 4), target))
    found = evaluator.finish("val")
    assert {"val/a/f1/student", "val/b/f1/student"} <= set(found)
    both = Evaluator({"a": "multiclass", "b": "multiclass"}, None, metrics={"recall": metrics["recall"]})
    target = {"a": torch.tensor([0, 1]), "b": torch.tensor([1, 1])}
    both.update(("val", 0, 0), {"a": draw(2, 2), "b": draw(2, 2)}, Batch(draw(2, 4), target))
    assert {"val/a/recall/student", "val/b/recall/student"} <= set(both.finish("val"))


def test_members_of_the_student_are_measured_too() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"f1": MulticlassF1Score(3)})
    data = Batch(draw(6, 4), torch.arange(6) % 3)
    evaluator.update(("val", 0, 0), draw(6, 3), data, {"peer_0": draw(6, 3, seed=1)})
    assert {"val/f1/student", "val/f1/peer_0"} <= set(evaluator.finish("val"))


def test_without_labels_there_is_nothing_to_report() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"f1": MulticlassF1Score(3)})
    evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4)))
    assert evaluator.finish("val") == {}


def test_a_metric_that_does_not_take_the_labels_is_named() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"f1": MulticlassF1Score(2)})
    with pytest.raises(ValueError, match=r"metrics\['f1'\] .MulticlassF1Score. does not take outputs \[6, 3\]"):
        evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4), torch.arange(6) % 3))


# What they are updated with ----------------------------------------------------------------------


def test_maps_come_as_the_network_gives_them() -> None:
    logits, labels = draw(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    for form in (labels, labels.byte(), labels.unsqueeze(1), nn.functional.one_hot(labels, 3).movedim(-1, 1)):
        given, target = as_metrics_take_them(logits, form, "multiclass", None)
        assert torch.equal(given, logits)
        assert torch.equal(target, labels)


@pytest.mark.parametrize("layout", ["maps", "tokens", "volumes"])
def test_positions_that_do_not_count_are_left_out(layout: str) -> None:
    spots = {"maps": (2, 4, 5), "tokens": (2, 20), "volumes": (2, 2, 2, 5)}[layout]
    last, labels = draw(*spots, 3), torch.randint(0, 3, spots)
    logits = last if layout == "tokens" else last.movedim(-1, 1)
    mask = torch.rand(spots) < 0.7
    hidden = labels.masked_fill(torch.rand(spots) < 0.3, -100)
    given, target = as_metrics_take_them(logits, hidden, "multiclass", mask)
    keep = mask & (hidden != -100)
    assert torch.equal(given, last[keep])
    assert torch.equal(target, labels[keep])
    found = MulticlassJaccardIndex(3)
    found.update(given, target)
    assert found.compute() == pytest.approx(float(jaccard_index(last[keep], labels[keep], "multiclass", num_classes=3)))


def test_a_batch_without_any_known_label_changes_nothing() -> None:
    evaluator = Evaluator("multiclass", None, metrics={"f1": MulticlassF1Score(3)})
    evaluator.update(("val", 0, 0), draw(6, 3), Batch(draw(6, 4), torch.full((6,), -100)))
    logits, labels = draw(6, 3), torch.arange(6) % 3
    evaluator.update(("val", 0, 1), logits, Batch(draw(6, 4), labels))
    want = f1_score(logits, labels, "multiclass", num_classes=3, average="macro")
    assert evaluator.finish("val")["val/f1/student"] == pytest.approx(float(want))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_sigmoids_come_as_probabilities_so_that_small_logits_are_not_taken_for_them(dtype: torch.dtype) -> None:
    logits, labels = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1, 1, 1, 1]).to(dtype)
    for shape in ((4,), (4, 1)):
        given, target = as_metrics_take_them(logits.reshape(shape), labels, "binary", None)
        metric = BinaryF1Score()
        metric.update(given, target)
        assert metric.compute() == 1


def test_unknown_findings_are_torchmetrics_ignore_index() -> None:
    logits, labels = draw(5, 3), torch.tensor([[0, 1, -100]] * 5)
    given, target = as_metrics_take_them(logits, labels.float(), "multilabel", None)
    torch.testing.assert_close(given, logits.sigmoid())
    assert torch.equal(target, labels)
    MultilabelF1Score(3, ignore_index=-100).update(given, target)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2)])
def test_numbers_come_with_labels_of_their_shape(shape: tuple[int, ...]) -> None:
    outputs, labels = draw(*shape), draw(*shape, seed=1)
    evaluator = Evaluator("regression", None, metrics={"r2": R2Score(), "mse": MeanSquaredError()})
    evaluator.update(("val", 0, 0), outputs, Batch(draw(6, 4), labels.reshape(6, -1)))
    found = evaluator.finish("val")
    assert found["val/mse/student"] == pytest.approx(float((outputs - labels).square().mean()))
    assert found["val/mse/student"] == pytest.approx(float(found["val/mean_squared_error/student"]))
    residual, spread = (outputs - labels).square().sum(0), (labels - labels.mean(0)).square().sum(0)
    assert found["val/r2/student"] == pytest.approx(float((1 - residual / spread).mean()), rel=1e-5)


@pytest.mark.parametrize("task", ["none", "embedding"])
def test_other_tasks_hand_on_what_they_get(task: Task) -> None:
    evaluator = Evaluator(task, FrozenTeacher(nn.Linear(4, 2)), metrics={"mse": MeanSquaredError()})
    outputs, labels, x = draw(6, 2), draw(6, 2, seed=1), draw(6, 4)
    evaluator.update(("val", 0, 0), outputs, Batch(x, labels))
    found = evaluator.finish("val")
    assert found["val/mse/student"] == pytest.approx(float((outputs - labels).square().mean()))
    assert "val/mse/teacher" in found


@pytest.mark.parametrize("who", ["module", "baseline"])
@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"f1": MulticlassF1Score}, TypeError, r"metrics\['f1'\] is the class MulticlassF1Score; give an object"),
        ([MulticlassF1Score(3)], TypeError, "metrics must be a mapping .* not a list"),
        (MulticlassF1Score(3), TypeError, "not a MulticlassF1Score"),
        (MetricCollection, TypeError, "not the class MetricCollection"),
        ({"f1": f1_score}, TypeError, r"metrics\['f1'\] is a function, not a torchmetrics.Metric"),
        ({"accuracy": MulticlassF1Score(3)}, ValueError, r"'accuracy' is reported anyway"),
    ],
)
def test_what_is_no_metric_is_refused_when_the_module_is_made(
    metrics: Any, error: type[Exception], message: str, who: str
) -> None:
    make: Callable[[], object] = (
        (lambda: LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3), metrics=metrics))
        if who == "module"
        else (lambda: SupervisedModule(nn.Linear(4, 3), metrics=metrics))
    )
    with pytest.raises(error, match=message):
        make()
