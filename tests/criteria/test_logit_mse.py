import pytest
import torch

from lit_distill import DistillationModule
from lit_distill.criteria import LogitMSE, SoftTarget
from tests.criteria.logits_by_hand import as_pixels, as_tokens, correlation, draw, gradient_of, value_of


@pytest.mark.parametrize("centre", [False, True])
def test_equals_a_hand_computation(centre: bool) -> None:
    student, teacher = draw(5, 7, seed=1), draw(5, 7, seed=2)
    total = 0.0
    for row_s, row_t in zip(student.tolist(), teacher.tolist(), strict=True):
        shift = (sum(row_s) - sum(row_t)) / 7 if centre else 0.0
        total += sum((s - t - shift) ** 2 for s, t in zip(row_s, row_t, strict=True))
    assert value_of(LogitMSE(centre), student, teacher).item() == pytest.approx(total / 35, abs=1e-10, rel=0)


@pytest.mark.parametrize("temperature", [1e3, 1e4])
def test_half_of_the_centred_value_is_the_soft_target_at_a_high_temperature(temperature: float) -> None:
    student, teacher = draw(6, 5, seed=1), draw(6, 5, seed=2)
    limit = value_of(LogitMSE(centre=True), student, teacher) / 2
    found = value_of(SoftTarget(temperature), student, teacher)
    torch.testing.assert_close(found, limit, rtol=10 / temperature, atol=0)
    torch.testing.assert_close(
        gradient_of(SoftTarget(temperature), student, teacher),
        gradient_of(LogitMSE(centre=True), student, teacher) / 2,
        rtol=0,
        atol=10 / temperature,
    )


def test_centred_a_constant_added_to_a_row_changes_nothing() -> None:
    student, teacher = draw(4, 5, seed=1), draw(4, 5, seed=2)
    expected = value_of(LogitMSE(centre=True), student, teacher)
    moved = value_of(LogitMSE(centre=True), student + draw(4, 1, seed=3), teacher - 4)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0)
    assert value_of(LogitMSE(), student + 100, teacher) > value_of(LogitMSE(), student, teacher)


def test_standardized_it_is_a_correlation() -> None:
    student, teacher = draw(6, 5, seed=1), draw(6, 5, seed=2)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    terms = [2 * (1 - correlation(s, t)) * (5 - 1) / 5 for s, t in pairs]
    found = value_of(LogitMSE(standardize=True), student, teacher)
    assert found.item() == pytest.approx(sum(terms) / 6, rel=1e-6)


@pytest.mark.parametrize("lay", [as_tokens, as_pixels])
def test_layouts_and_masks(lay: object) -> None:
    student, teacher = draw(24, 5, seed=1), draw(24, 5, seed=2)
    keep = torch.arange(24) % 3 > 0
    for mask in (None, keep):
        rows = slice(None) if mask is None else keep
        expected = value_of(LogitMSE(), student[rows], teacher[rows])
        found = value_of(LogitMSE(), lay(student), lay(teacher), mask=None if mask is None else lay(mask))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_binary_logits() -> None:
    student, teacher = draw(6, seed=1), draw(6, seed=2)
    expected = (student - teacher).square().mean()
    torch.testing.assert_close(value_of(LogitMSE(), student, teacher), expected)
    torch.testing.assert_close(value_of(LogitMSE(), student[:, None], teacher[:, None]), expected)


@pytest.mark.parametrize("options", [{"centre": True}, {"standardize": True}])
def test_what_compares_classes_is_refused_where_there_is_one(options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="a single class"):
        value_of(LogitMSE(**options), draw(6), draw(6))
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"\(LogitMSE\) is for the task 'multiclass'"):
        DistillationModule(*networks, {"mse": LogitMSE(**options)}, {"mse": 1.0}, task="multilabel")


def test_other_classes_than_the_teachers_are_refused() -> None:
    with pytest.raises(ValueError, match="student has 3 classes and the teacher 4"):
        value_of(LogitMSE(), draw(2, 3), draw(2, 4))
