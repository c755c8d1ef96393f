import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import RKD
from lit_distill.criteria.rkd import rkd, rkd_angle, rkd_distance
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def huber(gap: float) -> float:
    return gap * gap / 2 if abs(gap) < 1 else abs(gap) - 0.5


def apart(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def distance_by_hand(student: Tensor, teacher: Tensor) -> float:
    scaled = []
    for rows in (student.tolist(), teacher.tolist()):
        distances = [[apart(a, b) for b in rows] for a in rows]
        positive = [d for row in distances for d in row if d > 0]
        mean = sum(positive) / len(positive)
        scaled.append([d / mean for row in distances for d in row])
    return sum(huber(s - t) for s, t in zip(*scaled, strict=True)) / len(student) ** 2


def cosine_at(anchor: list[float], a: list[float], b: list[float]) -> float:
    """Of the angle a - anchor - b; 0 where one of them is the anchor."""
    to_a, to_b = apart(a, anchor), apart(b, anchor)
    if to_a == 0 or to_b == 0:
        return 0.0
    return sum((x - o) * (y - o) for o, x, y in zip(anchor, a, b, strict=True)) / (to_a * to_b)


def angle_by_hand(student: Tensor, teacher: Tensor) -> float:
    rows_s, rows_t = student.tolist(), teacher.tolist()
    count = range(len(rows_s))
    total = 0.0
    for i in count:
        for j in count:
            for k in count:
                cosines = [cosine_at(rows[i], rows[j], rows[k]) for rows in (rows_s, rows_t)]
                total += huber(cosines[0] - cosines[1])
    return total / len(rows_s) ** 3


def value_of(criterion: RKD, student: Tensor, teacher: Tensor) -> Tensor:
    value: Tensor = criterion(Outputs(torch.zeros(1), {"a": student}), Outputs(torch.zeros(1), {"a": teacher}), None)
    return value


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 9])
def test_value_equals_a_hand_computation(chunk: int | None) -> None:
    student, teacher = draw(5, 3), 4 * draw(5, 7, seed=1)
    student[3] = student[0]  # a pair of coincident samples
    distance, angle = distance_by_hand(student, teacher), angle_by_hand(student, teacher)
    assert rkd_distance(student, teacher, chunk).item() == pytest.approx(distance, rel=1e-10)
    assert rkd_angle(student, teacher, chunk).item() == pytest.approx(angle, rel=1e-10)
    found = value_of(RKD("a", "a", chunk=chunk), student, teacher)
    assert found.item() == pytest.approx(25 * distance + 50 * angle, rel=1e-10)


def test_the_huber_loss_is_linear_beyond_one() -> None:
    student, teacher = torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([[0.0], [9.0], [9.0]])
    student, teacher = student.double(), teacher.double()
    assert rkd_distance(student, teacher).item() == pytest.approx(distance_by_hand(student, teacher), rel=1e-12)
    assert rkd_angle(student, teacher).item() == pytest.approx(angle_by_hand(student, teacher), rel=1e-12)


def test_chunks_give_the_same_gradient() -> None:
    gradients = []
    for chunk in (None, 2):
        student = draw(6, 4).requires_grad_()
        rkd(student, draw(6, 5, seed=1), chunk=chunk).backward()
        gradients.append(student.grad)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-14)


def test_distances_ignore_scale_and_place_and_rotation() -> None:
    student, teacher = draw(6, 4), draw(6, 4, seed=1)
    rotation = torch.linalg.qr(draw(4, 4, seed=2))[0]
    expected = rkd(student, teacher)
    torch.testing.assert_close(rkd(3 * student @ rotation + 7, teacher), expected, rtol=1e-8, atol=0)
    assert rkd(teacher @ rotation * 5 - 2, teacher).item() < 1e-12


def test_embeddings_are_not_brought_to_unit_length() -> None:
    student, teacher = draw(6, 4), draw(6, 4, seed=1)
    unit = torch.nn.functional.normalize(student, dim=1)
    assert rkd(unit, teacher).item() != pytest.approx(rkd(student, teacher).item(), rel=1e-2)


def test_order_changes_nothing() -> None:
    student, teacher, order = draw(6, 4), draw(6, 5, seed=1), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(rkd(student[order], teacher[order]), rkd(student, teacher), rtol=1e-12, atol=0)


def test_samples_all_alike_are_finite() -> None:
    student = torch.ones(4, 3, requires_grad=True)
    value = rkd(student, torch.randn(4, 3))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_one_part_alone() -> None:
    student, teacher = draw(5, 3), draw(5, 3, seed=1)
    assert value_of(RKD("a", "a", 2, 0), student, teacher).item() == 2 * rkd_distance(student, teacher).item()
    assert value_of(RKD("a", "a", 0, 3), student, teacher).item() == 3 * rkd_angle(student, teacher).item()


def test_pairs_are_averaged() -> None:
    student, teacher = draw(5, 3), draw(5, 3, seed=1)
    outputs = Outputs(torch.zeros(1), {"a": student, "b": teacher})
    found = RKD(["a", "b"], ["b", "b"])(outputs, outputs, None)
    torch.testing.assert_close(found, rkd(student, teacher) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": -1.0}, "distance must be finite and at least 0"),
        ({"distance": 0.0, "angle": 0.0}, "distance and angle are all 0"),
        ({"chunk": 0}, "chunk must be at least 1, not 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RKD("a", "a", **arguments)  # type: ignore[arg-type]
