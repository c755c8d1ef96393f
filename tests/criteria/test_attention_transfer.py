import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import AttentionTransfer
from lit_distill.criteria.attention_transfer import attention_map, attention_transfer
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(**named: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), named)


def attention_by_hand(sample: Tensor, p: float) -> list[float]:
    """Of one sample, [positions, channels]."""
    powers = [sum(abs(v) ** p for v in position) / len(position) for position in sample.tolist()]
    length = math.sqrt(sum(q * q for q in powers))
    return [q / length for q in powers]


def value_by_hand(student: Tensor, teacher: Tensor, p: float) -> float:
    squares = []
    for s, t in zip(student, teacher, strict=True):
        pairs = zip(attention_by_hand(s, p), attention_by_hand(t, p), strict=True)
        squares += [(a - b) ** 2 for a, b in pairs]
    return sum(squares) / len(squares)


def positions_last(feature: Tensor) -> Tensor:
    return feature.flatten(2).transpose(1, 2)


def test_reference_value() -> None:
    g = torch.Generator().manual_seed(0)
    for rows, classes in ((8, 10), (4, 100)):
        torch.randn(rows, classes, generator=g, dtype=torch.float64)
        torch.randn(rows, classes, generator=g, dtype=torch.float64)
        torch.randint(0, classes, (rows,), generator=g)
    student = torch.randn(8, 16, 8, 8, generator=g, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(8, 32, 8, 8, generator=g, dtype=torch.float64)
    value = AttentionTransfer("a", "a")(features(a=student), features(a=teacher), None)
    value.backward()
    assert student.grad is not None
    assert value.item() == pytest.approx(0.002905265855475652, abs=1e-10, rel=0)
    assert value.item() == pytest.approx(0.002905265855475652, rel=1e-10)
    assert student.grad.norm().item() == pytest.approx(0.00025819459075751317, rel=1e-10)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_value_equals_a_hand_computation(p: float) -> None:
    student, teacher = draw(3, 4, 2, 5), draw(3, 6, 2, 5, seed=1)
    expected = value_by_hand(positions_last(student), positions_last(teacher), p)
    assert attention_transfer(student, teacher, p).item() == pytest.approx(expected, rel=1e-12)


def test_tokens_equal_a_hand_computation_and_the_map_of_the_same_values() -> None:
    student, teacher = draw(3, 4, 2, 3), draw(3, 6, 2, 3, seed=1)
    tokens = [positions_last(feature) for feature in (student, teacher)]
    found = attention_transfer(*tokens)
    assert found.item() == pytest.approx(value_by_hand(*tokens, 2.0), rel=1e-12)
    torch.testing.assert_close(found, attention_transfer(student, teacher), rtol=1e-12, atol=0)


def test_attention_map_is_a_unit_vector_in_row_order() -> None:
    feature = draw(2, 3, 2, 4)
    found = attention_map(feature)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2).double())
    expected = [attention_by_hand(sample, 2.0) for sample in positions_last(feature)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("student", "teacher"), [((4, 4), (2, 2)), ((2, 2), (4, 4)), ((4, 2), (2, 4))])
def test_the_larger_map_is_average_pooled(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    maps = [draw(2, 3, *student), draw(2, 5, *teacher, seed=1)]
    pooled = []
    for feature in maps:
        high, wide = feature.shape[2] // 2, feature.shape[3] // 2
        cells = [
            feature[:, :, i * high : (i + 1) * high, j * wide : (j + 1) * wide].mean((2, 3))
            for i in range(2)
            for j in range(2)
        ]
        pooled.append(torch.stack(cells, dim=1))
    found = attention_transfer(*maps)
    assert found.item() == pytest.approx(value_by_hand(pooled[0], pooled[1], 2.0), rel=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_gradient_is_the_derivative(p: float) -> None:
    student, teacher = draw(2, 3, 4, 2).requires_grad_(), draw(2, 4, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: attention_transfer(s, t, p), (student, teacher))


def test_zero_value_and_gradient_at_the_teacher_at_any_scale() -> None:
    student, teacher = draw(2, 3, 4, 4).requires_grad_(), 7 * draw(2, 3, 4, 4)
    value = attention_transfer(student, teacher)
    value.backward()
    assert value < 1e-30
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-15


def test_copies_and_order_change_nothing() -> None:
    student, teacher = draw(3, 4, 3, 3), draw(3, 5, 3, 3, seed=1)
    expected = attention_transfer(student, teacher)
    for s, t in (
        (student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1)),
        (student.flip(0), teacher.flip(0)),
        (student.flip(1), teacher),
        (student.flip(3), teacher.flip(3)),
    ):
        torch.testing.assert_close(attention_transfer(s, t), expected, rtol=1e-12, atol=0)
    assert not torch.isclose(attention_transfer(student.flip(3), teacher), expected)


def test_several_pairs_are_summed() -> None:
    student, teacher = (
        features(a=draw(2, 3, 4, 4), b=draw(2, 3, 2, 2)),
        features(a=draw(2, 5, 4, 4), b=draw(2, 5, 2, 2)),
    )
    expected = sum(attention_transfer(student.features[n], teacher.features[n]) for n in "ab")
    torch.testing.assert_close(AttentionTransfer(["a", "b"], ["a", "b"])(student, teacher, None), expected)


def test_it_has_no_parameters() -> None:
    criterion = AttentionTransfer("a", "a")
    criterion(features(a=draw(2, 3, 4, 4)), features(a=draw(2, 5, 2, 2)), None)
    assert not list(criterion.parameters())


def test_memory_formats_give_the_same_value() -> None:
    student, teacher = draw(2, 4, 3, 5), draw(2, 6, 3, 5, seed=1)
    wide = draw(2, 4, 3, 10)
    wide[..., ::2] = student
    for other in (student.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        torch.testing.assert_close(
            attention_transfer(other, teacher), attention_transfer(student, teacher), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_equal_float32_ones_of_the_same_values(dtype: torch.dtype) -> None:
    student, teacher = (300 * draw(2, 4, 4, 4)).to(dtype), draw(2, 6, 2, 2, seed=1).to(dtype)
    criterion = AttentionTransfer("a", "a")
    found = criterion(features(a=student), features(a=teacher), None)
    assert found.dtype == torch.float32
    assert torch.equal(found, criterion(features(a=student.float()), features(a=teacher.float()), None))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("dead", [False, True])
def test_units_that_are_off_stay_finite(p: float, dead: bool) -> None:
    student = (torch.zeros(2, 3, 4, 4) if dead else torch.relu(draw(2, 3, 4, 4)).float()).requires_grad_()
    value = attention_transfer(student, torch.relu(draw(2, 5, 4, 4, seed=1)).float(), p)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_detached_teacher_gets_no_gradient() -> None:
    student, teacher = draw(2, 3, 2, 2).requires_grad_(), draw(2, 3, 2, 2, seed=1).requires_grad_()
    AttentionTransfer("a", "a")(features(a=student), features(a=teacher).detach(), None).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("p", [0.0, -2.0, 0.5, math.nan, math.inf])
def test_powers_below_one_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="p must be finite and at least 1"):
        AttentionTransfer("a", "a", p)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 3, 4, 4), (2, 8)), ((2, 16, 3), (2, 9, 3)), ((2, 8), (2, 8))],
)
def test_features_without_comparable_positions_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        attention_transfer(torch.zeros(student), torch.zeros(teacher))


def test_tokens_meet_a_map_at_their_places_without_the_class_token() -> None:
    tokens, other = torch.randn(2, 17, 5), torch.randn(2, 3, 4, 4)
    arranged = tokens[:, 1:].mT.reshape(2, 5, 4, 4)
    torch.testing.assert_close(attention_transfer(tokens, other), attention_transfer(arranged, other))
    torch.testing.assert_close(attention_transfer(other, tokens), attention_transfer(other, arranged))
    with pytest.raises(ValueError, match="120 tokens are no square grid"):
        attention_transfer(torch.randn(2, 120, 5), other)
