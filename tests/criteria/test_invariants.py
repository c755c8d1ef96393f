"""What holds for every criterion alike."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lit_distill import Criterion, Outputs
from tests.criteria.all_cases import CASES
from tests.criteria.cases import Case, built, example, leaves

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def gradients(outputs: Outputs) -> list[Tensor]:
    tensors = [outputs.logits, *outputs.features.values()]
    return [tensor.grad for tensor in tensors if tensor.grad is not None]


def read(case: Case, outputs: Outputs) -> Tensor:
    return outputs.logits if case.kind == "logits" else outputs.features["a"]


@every
def test_gradient_is_the_derivative(case: Case) -> None:
    criterion = built(case).eval()
    student, teacher, target = example(case, batch=4)
    inputs = read(case, student).clone().requires_grad_()

    def value(x: Tensor) -> Tensor:
        outputs = replace(student, logits=x) if case.kind == "logits" else replace(student, features={"a": x})
        return copy.deepcopy(criterion)(outputs, teacher, target)

    assert torch.autograd.gradcheck(value, (inputs,), atol=1e-6, rtol=1e-4, fast_mode=True)


@every
def test_reaches_the_student_and_not_the_teacher(case: Case) -> None:
    criterion = built(case)
    student, teacher, target = example(case)
    student, teacher = leaves(student), leaves(teacher)
    criterion(student, teacher.detach(), target).backward()
    assert read(case, student).grad is not None
    assert read(case, student).grad.abs().sum() > 0
    for name, parameter in criterion.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name


@every
def test_zero_at_equality(case: Case) -> None:
    if not case.zero_at_equality:
        return
    case = replace(case, same_width=True)
    criterion = built(case).eval()
    student, _, target = example(case)
    student = leaves(student)
    value = criterion(student, student.detach(), target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9)
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients(student))


@every
@pytest.mark.parametrize("scale", [1e-8, 1.0, 200.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite(case: Case, scale: float, dtype: torch.dtype) -> None:
    if scale > (case.finite_in_float16 if dtype == torch.float16 else case.finite_at):
        return
    criterion = built(case, torch.float32)
    student, teacher, target = example(case, scale=scale, dtype=dtype)
    student = leaves(student)
    value = criterion(student, teacher, target)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(student))


@every
def test_autocast_changes_little(case: Case) -> None:
    student, teacher, target = example(case, dtype=torch.float32)
    plain = built(case, torch.float32)(student, teacher, target)
    with torch.autocast("cpu", torch.bfloat16):
        cast = built(case, torch.float32)(student, teacher, target)
    assert cast.item() == pytest.approx(plain.item(), rel=0.05, abs=0.05)


@every
def test_layout_in_memory_does_not_matter(case: Case) -> None:
    student, teacher, target = example(case)

    def strided(outputs: Outputs) -> Outputs:
        features = {name: _strided(value) for name, value in outputs.features.items()}
        return replace(outputs, logits=_strided(outputs.logits), features=features)

    plain = built(case)(student, teacher, target)
    other = built(case)(strided(student), strided(teacher), target)
    assert other.item() == pytest.approx(plain.item(), rel=1e-12)
    if case.kind == "map":
        last = [
            replace(o, features={"a": o.features["a"].to(memory_format=torch.channels_last)})
            for o in (student, teacher)
        ]
        assert built(case)(*last, target).item() == pytest.approx(plain.item(), rel=1e-12)


def _strided(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger tensor."""
    wide = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


@every
def test_a_batch_of_one(case: Case) -> None:
    criterion = built(case)
    student, teacher, target = example(case, batch=1)
    if case.batch_of_one == "works":
        assert torch.isfinite(criterion(student, teacher, target))
    else:
        with pytest.raises(ValueError, match=case.batch_of_one):
            criterion(student, teacher, target)


@every
def test_a_restored_state_gives_the_same_values(case: Case) -> None:
    first = built(case)
    student, teacher, target = example(case)
    first(student, teacher, target)  # queues fill
    second = built(case, seed=2)
    second.load_state_dict(first.state_dict(), strict=True)
    again = example(case, seed=3)
    torch.manual_seed(0)
    value = first(*again)
    torch.manual_seed(0)
    assert torch.equal(second(*again), value)


@every
def test_says_where_it_comes_from(case: Case) -> None:
    kind = type(case.make())
    assert kind.citation is not None
    assert issubclass(kind, Criterion)
    assert any(character.isdigit() for character in kind.citation.paper)
    assert kind.citation.weight > 0
