import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria import ReviewKD
from lit_distill.criteria.review_kd import hcl
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(**features: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), features)


def pool_by_hand(feature: Tensor, size: int) -> list[float]:
    step = feature.shape[2] // size
    found = []
    for sample in feature.tolist():
        for channel in sample:
            for top in range(size):
                for left in range(size):
                    block = [channel[top * step + i][left * step + j] for i in range(step) for j in range(step)]
                    found.append(sum(block) / len(block))
    return found


@pytest.mark.parametrize(("size", "levels"), [(8, [8, 4, 2, 1]), (4, [4, 2, 1]), (2, [2, 1]), (1, [1])])
def test_hcl_equals_a_hand_computation(size: int, levels: list[int]) -> None:
    student, teacher = draw(2, 3, size, size), draw(2, 3, size, size, seed=1)
    expected = total = 0.0
    for index, level in enumerate(levels):
        small_s, small_t = pool_by_hand(student, level), pool_by_hand(teacher, level)
        squares = [(a - b) ** 2 for a, b in zip(small_s, small_t, strict=True)]
        expected += 0.5**index * sum(squares) / len(squares)
        total += 0.5**index
    assert hcl(student, teacher).item() == pytest.approx(expected / total, rel=1e-12)


def test_hcl_is_zero_at_the_teacher_and_refuses_other_shapes() -> None:
    student = draw(2, 3, 8, 8)
    assert hcl(student, student).item() == 0
    with pytest.raises(
        ValueError, match=r"student feature \[2, 3, 8, 8\] does not match teacher feature \[2, 3, 4, 4\]"
    ):
        hcl(student, draw(2, 3, 4, 4))


SHAPES_S = {"a": (3, 4, 8, 8), "b": (3, 6, 4, 4), "c": (3, 8, 2, 2), "d": (3, 8)}
SHAPES_T = {"a": (3, 5, 8, 8), "b": (3, 7, 4, 4), "c": (3, 9, 4, 4), "d": (3, 9)}


def test_stages_are_fused_from_the_deepest_up() -> None:
    """The whole method written out, with the criterion's own weights."""
    torch.manual_seed(0)
    student = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES_S.items())}
    teacher = {name: draw(*shape, seed=9 + i) for i, (name, shape) in enumerate(SHAPES_T.items())}
    criterion = ReviewKD(list("abcd"), list("abcd"))
    criterion.build(outputs(**student), outputs(**teacher))
    criterion.double().eval()
    expected = torch.zeros((), dtype=torch.float64)
    deeper = None
    for index in (3, 2, 1, 0):
        name = "abcd"[index]
        x, target = student[name], teacher[name]
        if name == "d":
            x, target = x.reshape(3, 8, 1, 1), target.reshape(3, 9, 1, 1)
        fusion = criterion.fusions[index]
        norm = (1 + 1e-5) ** -0.5  # batch norm at its start, in evaluation
        x = F.conv2d(x, fusion.reduce[0].weight) * norm
        assert x.shape[1] == 8
        if deeper is not None:
            up = F.interpolate(deeper, x.shape[2:], mode="nearest")
            share = torch.sigmoid(F.conv2d(torch.cat([x, up], 1), fusion.attention.weight, fusion.attention.bias))
            x = x * share[:, 0:1] + up * share[:, 1:2]
        else:
            assert fusion.attention is None
        x = F.interpolate(x, target.shape[2:], mode="nearest")
        deeper = x
        expected = expected + hcl(F.conv2d(x, fusion.out[0].weight, padding=1) * norm, target)
    found = criterion(outputs(**student), outputs(**teacher), None)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


def test_every_module_learns_and_a_second_build_keeps_them() -> None:
    student = outputs(**{name: draw(*shape).float() for name, shape in SHAPES_S.items()})
    teacher = outputs(**{name: draw(*shape, seed=1).float() for name, shape in SHAPES_T.items()})
    criterion = ReviewKD(list("abcd"), list("abcd"))
    criterion.build(student, teacher)
    fusions = list(criterion.fusions)
    criterion.build(student, teacher)
    assert list(criterion.fusions) == fusions
    criterion(student, teacher, None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


def test_tokens_of_a_grid_are_a_map() -> None:
    maps = {"a": torch.randn(2, 4, 4, 4), "b": torch.randn(2, 6, 2, 2)}
    tokens = {name: torch.cat([torch.ones(2, 1, one.shape[1]), one.flatten(2).mT], 1) for name, one in maps.items()}
    criterion, other = ReviewKD(["a", "b"], ["a", "b"]), ReviewKD(["a", "b"], ["a", "b"])
    criterion.build(outputs(**maps), outputs(**maps))
    other.build(outputs(**tokens), outputs(**tokens))
    other.load_state_dict(criterion.state_dict())
    found = [one.eval()(outputs(**side), outputs(**side), None) for one, side in ((criterion, maps), (other, tokens))]
    torch.testing.assert_close(*found)


def test_other_tokens_are_refused() -> None:
    example = outputs(a=torch.zeros(2, 35, 4))
    criterion = ReviewKD("a", "a")
    for _ in range(2):  # a larger example is tried where a small one is refused
        with pytest.raises(ValueError, match="ReviewKD compares maps .*: 35 tokens are no square grid"):
            criterion.build(example, example)
