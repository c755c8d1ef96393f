import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import CC
from lit_distill.criteria.cc import correlation
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines_by_hand(feature: Tensor) -> list[float]:
    rows = feature.flatten(1).tolist()
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
    return [sum(a * b for a, b in zip(x, y, strict=True)) for x in unit for y in unit]


def correlation_by_hand(feature: Tensor, gamma: float, order: int) -> list[float]:
    return [
        sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))
        for cosine in cosines_by_hand(feature)
    ]


def value_of(criterion: CC, student: Tensor, teacher: Tensor) -> Tensor:
    value: Tensor = criterion(Outputs(torch.zeros(1), {"a": student}), Outputs(torch.zeros(1), {"a": teacher}), None)
    return value


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.4, 1), (1.5, 4)])
def test_value_equals_a_hand_computation(gamma: float, order: int) -> None:
    student, teacher = draw(5, 3, 2), draw(5, 7, seed=1)
    pairs = zip(correlation_by_hand(student, gamma, order), correlation_by_hand(teacher, gamma, order), strict=True)
    expected = sum((s - t) ** 2 for s, t in pairs) / 25
    assert value_of(CC("a", "a", gamma, order), student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_the_expansion_goes_to_the_gaussian_kernel() -> None:
    feature = draw(6, 4)
    expected = [math.exp(-0.4 * (2 - 2 * cosine)) for cosine in cosines_by_hand(feature)]
    assert correlation(feature, 0.4, 15).flatten().tolist() == pytest.approx(expected, rel=1e-10)


def test_the_order_of_the_batch_changes_nothing() -> None:
    student, teacher, order = draw(6, 4), draw(6, 5, seed=1), torch.tensor([3, 1, 5, 0, 2, 4])
    criterion = CC("a", "a")
    expected = value_of(criterion, student, teacher)
    torch.testing.assert_close(value_of(criterion, student[order], teacher[order]), expected)
    torch.testing.assert_close(value_of(criterion, 9 * student, teacher), expected)


@pytest.mark.parametrize("arguments", [{"gamma": 0.0}, {"order": 0}])
def test_bad_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gamma must be above 0 and finite, not 0.0|order must be at least 1, not 0"):
        CC("a", "a", **arguments)  # type: ignore[arg-type]
