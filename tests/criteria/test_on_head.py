from typing import Any

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import AttentionTransfer, Criterion, HardTarget, Hint, OnHead, SoftTarget
from lit_distill.criteria.hard_target import hard_target
from lit_distill.criteria.soft_target import soft_target
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def networks() -> tuple[Outputs, Outputs]:
    student = Outputs(
        draw(3, 9), {"colour": draw(3, 4, seed=1), "shape": draw(3, 5, seed=2), "body": draw(3, 6, seed=3)}
    )
    teacher = Outputs(
        draw(3, 4, seed=4), {"0": draw(3, 4, seed=5), "1": draw(3, 5, seed=6), "trunk": draw(3, 8, seed=7)}
    )
    return student, teacher


LABELS = {"colour": torch.tensor([0, 3, 1]), "shape": torch.tensor([4, -100, 2])}


def test_each_head_gets_its_tasks_labels() -> None:
    student, teacher = networks()
    for task, labels in LABELS.items():
        value = OnHead(HardTarget(), task, task_name=task)(student, teacher, LABELS)
        assert torch.equal(value, hard_target(student.features[task], labels))


def test_heads_are_compared_with_the_teachers() -> None:
    student, teacher = networks()
    for task, head in (("colour", "0"), ("shape", "1")):
        value = OnHead(SoftTarget(2.0), task, head, task)(student, teacher, LABELS)
        assert torch.equal(value, soft_target(student.features[task], teacher.features[head], 2.0))


def test_without_a_teachers_head_it_is_the_teachers_logits() -> None:
    student, teacher = networks()
    value = OnHead(SoftTarget(), "colour")(student, teacher, None)
    assert torch.equal(value, soft_target(student.features["colour"], teacher.logits))


def test_only_the_head_gets_a_gradient() -> None:
    student, teacher = networks()
    for tensor in (student.logits, *student.features.values()):
        tensor.requires_grad_()
    OnHead(SoftTarget(), "colour", "0")(student, teacher, None).backward()
    assert student.features["colour"].grad is not None
    assert all(tensor.grad is None for tensor in (student.logits, student.features["shape"], student.features["body"]))


def test_one_tasks_labels_pass_where_no_task_is_named() -> None:
    student, teacher = networks()
    value = OnHead(HardTarget(), "colour")(student, teacher, LABELS["colour"])
    assert torch.equal(value, hard_target(student.features["colour"], LABELS["colour"]))


@pytest.mark.parametrize(
    ("criterion", "student_layers", "teacher_layers"),
    [
        (HardTarget(), ("colour",), ()),
        (SoftTarget(), ("colour",), ("0",)),
        (Hint("body", "trunk"), ("body", "colour"), ("trunk", "0")),
    ],
)
def test_it_is_what_the_criterion_is(
    criterion: Criterion, student_layers: tuple[str, ...], teacher_layers: tuple[str, ...]
) -> None:
    wrapped = OnHead(criterion, "colour", "0" if teacher_layers else None)
    assert wrapped.student_layers == student_layers
    assert wrapped.teacher_layers == teacher_layers
    for name in ("needs_target", "needs_teacher", "compares_logits"):
        assert getattr(wrapped, name) == getattr(criterion, name)


def test_the_criterions_layers_are_built_trained_and_saved_within() -> None:
    student, teacher = networks()
    wrapped = OnHead(Hint("body", "trunk"), "colour", "0")
    wrapped.build(student, teacher)
    wrapped.double()
    names = [name for name, _ in wrapped.named_parameters()]
    assert names == ["criterion.projectors.0.linear.weight", "criterion.projectors.0.linear.bias"]
    wrapped(student, teacher, LABELS).backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


def test_the_temperature_is_the_criterions() -> None:
    wrapped = OnHead(SoftTarget(3.0), "colour")
    assert wrapped.temperature == 3.0
    wrapped.temperature = 2.0
    assert wrapped.criterion.temperature == 2.0
    assert OnHead(AttentionTransfer("a", "b"), "colour").temperature is None


def named(task_name: str | None) -> OnHead:
    return OnHead(HardTarget(), "colour", task_name=task_name)


@pytest.mark.parametrize(
    ("task_name", "target", "message"),
    [
        ("color", LABELS, "no labels of a task 'color'; did you mean 'colour'"),
        ("weight", LABELS, "no labels of a task 'weight'. It has 'colour', 'shape'"),
        (None, LABELS, "labels of the tasks 'colour', 'shape'; say which with task_name"),
        ("colour", LABELS["colour"], "labels of task 'colour' are wanted, and the batch has those of only one task"),
    ],
)
def test_labels_of_other_tasks_are_refused(task_name: str | None, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(task_name)(*networks(), target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnHead(HardTarget(), "head*"), "a head is one layer, and 'head\\*' may be several"),
        (lambda: OnHead(SoftTarget(), "head", "head?"), "a head is one layer"),
        (lambda: OnHead(HardTarget(), "head", "head"), "HardTarget reads no teacher; leave teacher_head='head' out"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
