import pytest
import torch
from torch import Tensor

from lit_distill import Criterion
from lit_distill.criteria import TTM, WTTM, SoftTarget
from tests.criteria.logits_by_hand import as_pixels, as_tokens, draw, gradient_of, kl, softmax, value_of

both = pytest.mark.parametrize("kind", [TTM, WTTM])


def by_hand(student: Tensor, teacher: Tensor, gamma: float, weighted: bool) -> float:
    terms = []
    for row_s, row_t in zip(student.tolist(), teacher.tolist(), strict=True):
        powers = [p**gamma for p in softmax(row_t)]
        total = sum(powers)
        terms.append((total if weighted else 1.0) * kl([power / total for power in powers], softmax(row_s)))
    return sum(terms) / len(terms)


@both
@pytest.mark.parametrize("gamma", [0.1, 0.2, 1.0])
def test_equals_a_hand_computation(kind: type[TTM], gamma: float) -> None:
    student, teacher = draw(9, 6, seed=1), draw(9, 6, seed=2)
    expected = by_hand(student, teacher, gamma, kind is WTTM)
    assert value_of(kind(gamma), student, teacher).item() == pytest.approx(expected, abs=1e-10, rel=0)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_it_is_a_temperature_of_the_teacher_alone(gamma: float) -> None:
    student, teacher = draw(9, 6, seed=1), draw(9, 6, seed=2)
    expected = value_of(SoftTarget(1.0), student, gamma * teacher)
    torch.testing.assert_close(value_of(TTM(gamma), student, teacher), expected, rtol=1e-12, atol=0)


@both
def test_without_a_transform_it_is_the_soft_target_at_temperature_one(kind: type[TTM]) -> None:
    student, teacher = draw(9, 6, seed=1), draw(9, 6, seed=2)
    expected = value_of(SoftTarget(1.0), student, teacher)
    torch.testing.assert_close(value_of(kind(1.0), student, teacher), expected, rtol=1e-12, atol=0)


@both
def test_zero_at_the_softened_teacher(kind: type[TTM]) -> None:
    teacher = draw(9, 6)
    assert value_of(kind(0.2), 0.2 * teacher, teacher).abs() < 1e-12
    assert gradient_of(kind(0.2), 0.2 * teacher, teacher).abs().max() < 1e-12


@pytest.mark.parametrize(("scale", "weight"), [(1e4, 1.0), (0.0, 5**0.8)])
def test_doubt_weighs_between_one_and_a_power_of_the_classes(scale: float, weight: float) -> None:
    student, teacher = draw(4, 5, seed=1), scale * draw(4, 5, seed=2)
    plain, weighted = (value_of(kind(0.2), student, teacher).item() for kind in (TTM, WTTM))
    assert weighted == pytest.approx(weight * plain, rel=1e-6)


@both
@pytest.mark.parametrize("lay", [as_tokens, as_pixels])
def test_layouts_and_masks(kind: type[Criterion], lay: object) -> None:
    student, teacher = draw(24, 5, seed=1), draw(24, 5, seed=2)
    keep = torch.arange(24) % 4 > 0
    expected = value_of(kind(), student, teacher)
    torch.testing.assert_close(value_of(kind(), lay(student), lay(teacher)), expected, rtol=1e-12, atol=0)
    expected = value_of(kind(), student[keep], teacher[keep])
    found = value_of(kind(), lay(student), lay(teacher), mask=lay(keep))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(kind: type[Criterion], dtype: torch.dtype) -> None:
    extreme = [[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [1e4, 1e4, 1e4], [0.0, 1.0, 2.0]]
    student = torch.tensor(extreme, dtype=dtype)
    for teacher in (student.roll(1, 0), -student, student):
        value = value_of(kind(), student, teacher)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient_of(kind(), student, teacher).isfinite().all()


@both
@pytest.mark.parametrize("gamma", [0.0, -1.0, 1.5, float("nan")])
def test_an_exponent_out_of_range_is_refused(kind: type[TTM], gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\]"):
        kind(gamma)
