import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import NST
from lit_distill.criteria.nst import nst
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patterns(sample: Tensor) -> list[list[float]]:
    found = []
    for channel in sample.flatten(1).tolist():
        length = math.sqrt(sum(v * v for v in channel))
        found.append([v / length for v in channel])
    return found


def kernel(first: list[list[float]], second: list[list[float]]) -> float:
    values = [sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in first for y in second]
    return sum(values) / len(values)


def nst_by_hand(student: Tensor, teacher: Tensor) -> float:
    values = []
    for s, t in zip(student, teacher, strict=True):
        x, y = patterns(s), patterns(t)
        values.append(kernel(y, y) + kernel(x, x) - 2 * kernel(y, x))
    return sum(values) / len(values)


def pooled(feature: Tensor) -> Tensor:
    return feature.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))


def test_value_equals_a_hand_computation() -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 6, 4, 4, seed=1)
    assert nst(student, teacher).item() == pytest.approx(nst_by_hand(student, teacher), rel=1e-10)


def test_the_larger_map_is_pooled() -> None:
    small, large = draw(3, 4, 2, 2), draw(3, 6, 4, 4, seed=1)
    assert nst(small, large).item() == pytest.approx(nst_by_hand(small, pooled(large)), rel=1e-10)
    assert nst(large, small).item() == pytest.approx(nst_by_hand(pooled(large), small), rel=1e-10)


def test_order_scale_and_number_of_channels_change_nothing() -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 6, 4, 4, seed=1)
    expected = nst(student, teacher)
    torch.testing.assert_close(nst(student[:, [2, 0, 3, 1]], teacher), expected)
    torch.testing.assert_close(nst(torch.cat([student, -3 * student], 1), 9 * teacher), expected)
    assert nst(student.repeat(1, 3, 1, 1), student).item() == pytest.approx(0, abs=1e-12)


def test_it_is_never_negative() -> None:
    assert all(nst(draw(2, 3, 2, 2, seed=i), draw(2, 5, 2, 2, seed=100 + i)) >= 0 for i in range(20))


def test_pairs_are_added_and_others_refused() -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 6, 4, 4, seed=1)
    outputs = Outputs(torch.zeros(1), {"a": student, "b": teacher, "v": draw(3, 4)})
    torch.testing.assert_close(NST(["a", "a"], ["b", "b"])(outputs, outputs, None), 2 * nst(student, teacher))
    with pytest.raises(ValueError, match=r"NST compares positions, .* and a feature is \[3, 4\]"):
        NST("v", "v")(outputs, outputs, None)


def test_tokens_are_positions_in_a_row() -> None:
    student, teacher = draw(2, 7, 3), draw(2, 7, 5, seed=1)
    assert nst(student, teacher).item() == pytest.approx(nst_by_hand(student.mT, teacher.mT), rel=1e-10)


def test_tokens_of_other_numbers_are_maps_without_their_class_tokens() -> None:
    small, large = draw(3, 4, 2, 2), draw(3, 6, 4, 4, seed=1)
    tokens = [torch.cat([draw(3, 1, one.shape[1], seed=9), one.flatten(2).mT], 1) for one in (small, large)]
    torch.testing.assert_close(nst(*tokens), nst(small, large))
    torch.testing.assert_close(nst(small, tokens[1]), nst(small, large))
    with pytest.raises(ValueError, match="4 student tokens cannot be compared with 16 teacher tokens; name layers"):
        nst(tokens[0][:, 1:], tokens[1][:, 1:])  # nothing shows that these are images
