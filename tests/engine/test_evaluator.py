"""What is measured of heads, members and several loaders."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Batch
from lit_distill.engine.evaluator import Evaluator, mean_accuracies
from lit_distill.teachers import FrozenTeacher

RIGHT, WRONG = torch.tensor([[5.0, 0.0]] * 2), torch.tensor([[0.0, 5.0]] * 2)
FIRST = torch.zeros(2, dtype=torch.long)


def batch(target: Any = FIRST) -> Batch:
    return Batch(torch.zeros(2, 3), target)


def plain(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in figures.items()}


def test_members_are_measured_beside_the_student() -> None:
    evaluator = Evaluator("multiclass", None)
    evaluator.update(("val", 0, 0), RIGHT, batch(), {"peer_0": RIGHT, "peer_1": WRONG})
    found = plain(evaluator.finish("val"))
    assert (found["val/accuracy/student"], found["val/accuracy/peer_0"], found["val/accuracy/peer_1"]) == (1, 1, 0)
    assert found["val/cross_entropy/peer_1"] == pytest.approx(5 + torch.tensor(-5.0).exp().log1p().item())


def test_members_without_labels_have_no_figures() -> None:
    evaluator = Evaluator("multiclass", None)
    evaluator.update(("val", 0, 0), RIGHT, batch(None), {"peer_0": RIGHT})
    assert evaluator.finish("val") == {}


def test_tasks_have_their_own_figures_in_every_loader() -> None:
    evaluator = Evaluator({"a": "multiclass", "b": "multiclass"}, None)
    labels = {"a": FIRST, "b": FIRST}
    evaluator.update(("test", 0, 0), {"a": RIGHT, "b": WRONG}, batch(labels))
    evaluator.update(("test", 1, 0), {"a": WRONG, "b": WRONG}, batch(labels))
    found = plain(evaluator.finish("test"))
    names = ("a/accuracy/student", "b/accuracy/student", "accuracy/student")
    assert [found[f"test/{name}/loader_0"] for name in names] == [1, 0, 0.5]
    assert [found[f"test/{name}/loader_1"] for name in names] == [0, 0, 0]
    assert evaluator.finish("test") == {}


def test_a_batch_may_lack_a_task() -> None:
    evaluator = Evaluator({"a": "multiclass", "b": "multiclass"}, None)
    evaluator.update(("val", 0, 0), {"a": RIGHT, "b": WRONG}, batch({"a": FIRST}))
    found = plain(evaluator.finish("val"))
    assert found["val/a/accuracy/student"] == 1
    assert not [name for name in found if "/b/" in name or name == "val/accuracy/student"]


def test_only_what_every_task_has_is_averaged() -> None:
    one, half = torch.tensor(1.0), torch.tensor(0.5)
    tasks = {"a": {"accuracy/student": one, "accuracy/teacher": one, "agreement": one}, "b": {"accuracy/student": half}}
    assert plain(mean_accuracies(tasks)) == {"accuracy/student": 0.75}


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.a(x), self.b(x)


def heads() -> tuple[Heads, FrozenTeacher]:
    network = Heads()
    teacher = FrozenTeacher(network)
    teacher.capture_layers(["a", "b"])
    return network, teacher


def test_a_frozen_teacher_is_asked_once_for_all_tasks() -> None:
    network, teacher = heads()
    evaluator = Evaluator({"a": "multiclass", "b": "multiclass"}, teacher, {"a": "a", "b": "b"})
    data = batch({"a": FIRST, "b": FIRST})
    for epoch in range(3):
        evaluator.update(("val", 0, 0), {"a": network.a(data.inputs), "b": network.a(data.inputs)}, data)
        found = plain(evaluator.finish("val", sanity=True))
        assert found["val/a/agreement"] == 1
        assert found["val/a/kl_divergence"] == pytest.approx(0, abs=1e-6)
        assert network.calls == 1, epoch


def test_the_teachers_own_inputs_are_what_it_is_asked_about() -> None:
    network, teacher = heads()
    evaluator = Evaluator({"a": "multiclass"}, teacher, {"a": "a"})
    other = torch.ones(2, 3)
    data = Batch(torch.zeros(2, 3), {"a": FIRST}, teacher_inputs=other)
    evaluator.update(("val", 0, 0), {"a": network.a(other)}, data)
    assert plain(evaluator.finish("val", sanity=True))["val/a/kl_divergence"] == pytest.approx(0, abs=1e-6)


def test_a_teacher_that_teaches_no_head_is_not_asked() -> None:
    network, teacher = heads()
    evaluator = Evaluator({"a": "multiclass"}, teacher)
    evaluator.update(("val", 0, 0), {"a": RIGHT}, batch({"a": FIRST}))
    assert network.calls == 0
    assert not [name for name in evaluator.finish("val") if "teacher" in name]


def test_an_untrained_teacher_is_warned_of_in_its_task() -> None:
    network, teacher = heads()
    with torch.no_grad():
        network.b.weight.zero_()
        network.b.bias.copy_(torch.tensor([0.0, 1.0]))
    evaluator = Evaluator({"b": "multiclass"}, teacher, {"b": "b"})
    evaluator.update(("val", 0, 0), {"b": RIGHT}, batch({"b": FIRST}))
    with pytest.warns(UserWarning, match="the teacher's accuracy in task 'b' is 0.0%"):
        evaluator.finish("val")


@pytest.mark.parametrize(
    ("tasks", "logits", "target", "message"),
    [
        ("multiclass", RIGHT, {"a": FIRST, "b": FIRST}, "labels of several tasks \\('a', 'b'\\); use MultiTask"),
        ({"a": "multiclass"}, {"a": RIGHT}, FIRST, "one task's labels, and the heads are of 'a'"),
    ],
)
def test_labels_of_other_tasks_are_refused(tasks: Any, logits: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(tasks, None).update(("val", 0, 0), logits, batch(target))


def test_a_copy_measures_the_same_tasks() -> None:
    _, teacher = heads()
    for tasks in ("multiclass", {"a": "multiclass", "b": "binary"}):
        twin = copy.deepcopy(Evaluator(tasks, teacher, {"a": "a"}))  # type: ignore[arg-type]
        assert twin.tasks == Evaluator(tasks, None).tasks  # type: ignore[arg-type]
        assert twin.teacher is teacher
        assert twin.teacher_heads == {"a": "a"}
