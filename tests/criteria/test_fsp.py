import pytest
import torch
from torch import Tensor

from lit_distill.criteria import FSP
from lit_distill.criteria.fsp import flow, fsp
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_by_hand(first: Tensor, second: Tensor) -> list[float]:
    """Of two maps of one size."""
    found = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        for c in a:
            for d in b:
                products = [x * y for row_c, row_d in zip(c, d, strict=True) for x, y in zip(row_c, row_d, strict=True)]
                found.append(sum(products) / len(products))
    return found


def pooled(feature: Tensor) -> Tensor:
    return feature.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))


def test_flow_equals_a_hand_computation() -> None:
    first, second = draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)
    assert flow(first, second).shape == (2, 3, 5)
    assert flow(first, second).flatten().tolist() == pytest.approx(flow_by_hand(pooled(first), second), rel=1e-12)
    assert flow(second, first).flatten().tolist() == pytest.approx(flow_by_hand(second, pooled(first)), rel=1e-12)


def test_value_is_the_sum_over_neighbouring_layers() -> None:
    shapes = {"a": (2, 3, 4, 4), "b": (2, 4, 4, 4), "c": (2, 5, 2, 2)}
    student = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    teacher = {name: draw(*shape, seed=9 + i) for i, (name, shape) in enumerate(shapes.items())}
    expected = 0.0
    for first, second in (("a", "b"), ("b", "c")):
        flows = []
        for features in (student, teacher):
            one = pooled(features[first]) if second == "c" else features[first]
            flows.append(flow_by_hand(one, features[second]))
        squares = [(s - t) ** 2 for s, t in zip(*flows, strict=True)]
        expected += sum(squares) / len(squares)
    found = FSP(list("abc"), list("abc"))(Outputs(torch.zeros(1), student), Outputs(torch.zeros(1), teacher), None)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_what_does_not_fit_is_refused() -> None:
    one = Outputs(torch.zeros(1), {"a": draw(2, 3, 4, 4), "b": draw(2, 4, 4, 4), "v": draw(2, 3)})
    other = Outputs(torch.zeros(1), {"a": draw(2, 3, 4, 4), "b": draw(2, 5, 4, 4), "v": draw(2, 3)})
    with pytest.raises(ValueError, match="name at least two"):
        FSP("a", "a").build(one, other)
    with pytest.raises(ValueError, match="needs the same channels in both networks, and b has 4 and b 5"):
        FSP(["a", "b"], ["a", "b"]).build(one, other)
    with pytest.raises(ValueError, match=r"FSP compares positions, .* and a feature is"):
        FSP(["a", "v"], ["a", "v"]).build(one, other)


def test_tokens_are_positions_in_a_row() -> None:
    first, second = draw(2, 3, 4, 4), draw(2, 5, 4, 4, seed=1)
    tokens = [feature.flatten(2).mT for feature in (first, second)]
    torch.testing.assert_close(flow(*tokens), flow(first, second))
    with_class = [torch.cat([draw(2, 1, one.shape[2], seed=7), one], 1) for one in tokens]
    torch.testing.assert_close(flow(first, with_class[1]), flow(first, second))  # a map meets a grid
    student, teacher = draw(2, 2, 6, 3), draw(2, 2, 6, 3, seed=2)
    found = fsp(list(student.unbind(1)), list(teacher.unbind(1)))
    rows = [[one.mT.unsqueeze(2) for one in side.unbind(1)] for side in (student, teacher)]
    torch.testing.assert_close(found, fsp(*rows))
