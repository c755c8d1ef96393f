import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import SP
from lit_distill.criteria.sp import similarity, similarity_preserving
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(student: Tensor, teacher: Tensor) -> float:
    """The paper's equations 1, 2 and 4 in loops."""
    sides = []
    for feature in (student, teacher):
        rows = [row.flatten().tolist() for row in feature]
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        sides.append([[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in gram])
    total = sum((a - b) ** 2 for s, t in zip(*sides, strict=True) for a, b in zip(s, t, strict=True))
    return total / len(student) ** 2


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((5, 3), (5, 7)), ((4, 6, 3), (4, 2, 8)), ((6, 3, 4, 2), (6, 5, 2, 2)), ((3, 4), (3, 2, 5, 5))],
)
def test_value_equals_a_hand_computation(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    s, t = draw(*student), draw(*teacher, seed=1)
    expected = by_hand(s, t)
    assert similarity_preserving(s, t).item() == pytest.approx(expected, rel=1e-10)
    found = SP("a", "b")(Outputs(torch.zeros(1), {"a": s}), Outputs(torch.zeros(1), {"b": t}), None)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_pairs_are_summed() -> None:
    student = Outputs(torch.zeros(1), {"a": draw(4, 3), "b": draw(4, 5, seed=1)})
    teacher = Outputs(torch.zeros(1), {"x": draw(4, 2, seed=2), "y": draw(4, 6, seed=3)})
    both = SP(["a", "b"], ["x", "y"])(student, teacher, None)
    expected = by_hand(student.features["a"], teacher.features["x"]) + by_hand(
        student.features["b"], teacher.features["y"]
    )
    assert both.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4])
def test_one_scale_for_all_samples_changes_nothing(scale: float) -> None:
    student, teacher = draw(5, 3).float(), draw(5, 4, seed=1).float()
    expected = similarity_preserving(student, teacher)
    torch.testing.assert_close(similarity_preserving(scale * student, teacher), expected, rtol=1e-4, atol=0)


def test_a_rotation_of_the_student_and_an_order_of_samples_change_nothing() -> None:
    student, teacher = draw(5, 3), draw(5, 4, seed=1)
    rotation, _ = torch.linalg.qr(draw(3, 3, seed=2))
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = similarity_preserving(student, teacher)
    torch.testing.assert_close(similarity_preserving(student @ rotation, teacher), expected)
    torch.testing.assert_close(similarity_preserving(student[order], teacher[order]), expected)


def test_rows_have_length_one() -> None:
    norms = similarity(draw(6, 4, 3, 3)).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(6, dtype=torch.float64))


def test_a_dead_sample_leaves_value_and_gradient_of_common_size() -> None:
    student = draw(4, 3).float()
    student[1] = 0
    student.requires_grad_()
    value = similarity_preserving(student, draw(4, 5, seed=1).float())
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.abs().max() < 10


def test_a_batch_of_one_trains_nothing() -> None:
    student = draw(1, 3).requires_grad_()
    value = similarity_preserving(student, draw(1, 4, seed=1))
    value.backward()
    assert value == 0
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_there_are_no_parameters() -> None:
    criterion = SP("a", "a")
    criterion.build(Outputs(torch.zeros(1), {"a": draw(4, 3)}), Outputs(torch.zeros(1), {"a": draw(4, 9)}))
    assert not list(criterion.state_dict())
