import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import PKT
from lit_distill.criteria.pkt import neighbour_probabilities, pkt
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities_by_hand(feature: Tensor) -> list[list[float]]:
    rows = feature.flatten(1).tolist()
    unit = [[v / (math.sqrt(sum(w * w for w in row)) + 1e-7) for v in row] for row in rows]
    kernel = [[(sum(a * b for a, b in zip(x, y, strict=True)) + 1) / 2 for y in unit] for x in unit]
    return [[k / sum(row) for k in row] for row in kernel]


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 2), (3, 2, 2, 2)])
def test_value_equals_a_hand_computation(shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape), draw(shape[0], 6, seed=1)
    p_s, p_t = probabilities_by_hand(student), probabilities_by_hand(teacher)
    terms = [
        t * math.log((t + 1e-7) / (s + 1e-7))
        for row_s, row_t in zip(p_s, p_t, strict=True)
        for s, t in zip(row_s, row_t, strict=True)
    ]
    expected = sum(terms) / len(terms)
    found = PKT("a", "a")(Outputs(torch.zeros(1), {"a": student}), Outputs(torch.zeros(1), {"a": teacher}), None)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_rows_are_probabilities() -> None:
    torch.testing.assert_close(neighbour_probabilities(draw(5, 3)).sum(1), torch.ones(5, dtype=torch.float64))


def test_scale_and_order_change_nothing() -> None:
    student, teacher, order = draw(6, 4), draw(6, 5, seed=1), torch.tensor([3, 1, 5, 0, 2, 4])
    expected = pkt(student, teacher)
    torch.testing.assert_close(pkt(student[order], teacher[order]), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(pkt(40 * student, teacher), expected, rtol=1e-5, atol=0)


def test_opposite_and_dead_samples_are_finite() -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    value = pkt(student, torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_pairs_are_averaged() -> None:
    student, teacher = draw(5, 3), draw(5, 3, seed=1)
    outputs = Outputs(torch.zeros(1), {"a": student, "b": teacher})
    torch.testing.assert_close(PKT(["a", "b"], ["b", "b"])(outputs, outputs, None), pkt(student, teacher) / 2)
