import pytest
import torch
from torch import Tensor

from lit_distill.criteria import DKD, NKD, RLD, Criterion
from lit_distill.utils.arguments import check_shares
from tests.criteria.logits_by_hand import as_pixels, as_tokens, draw, gradient_of, labels, value_of

every = pytest.mark.parametrize("kind", [DKD, NKD, RLD])


def logits_and_labels() -> tuple[Tensor, Tensor, Tensor]:
    return draw(24, 5, seed=1), draw(24, 5, seed=2), labels(24, classes=5)


@every
@pytest.mark.parametrize("lay", [as_tokens, as_pixels])
def test_rows_tokens_and_pixels_agree(kind: type[Criterion], lay: object) -> None:
    student, teacher, target = logits_and_labels()
    expected = value_of(kind(), student, teacher, target)
    found = value_of(kind(), lay(student), lay(teacher), lay(target))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@every
@pytest.mark.parametrize("lay", [as_tokens, as_pixels])
def test_masked_positions_and_unknown_labels_are_left_out(kind: type[Criterion], lay: object) -> None:
    student, teacher, target = logits_and_labels()
    keep, known = torch.arange(24) % 4 > 0, torch.arange(24) % 5 > 0
    both = keep & known
    expected = value_of(kind(), student[both], teacher[both], target[both])
    target = target.masked_fill(~known, -100)
    padded = torch.where(keep[:, None], student, 1e3)
    mask = lay(keep)
    for logits in (student, padded):
        found = value_of(kind(), lay(logits), lay(teacher), lay(target), mask)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradient = gradient_of(kind(), lay(student), lay(teacher), lay(target), mask)
    reached = (gradient != 0).any(1 if gradient.dim() == 4 else -1)
    assert torch.equal(reached, lay(both))


@every
def test_a_batch_without_any_known_label_is_zero(kind: type[Criterion]) -> None:
    student, teacher, _ = logits_and_labels()
    target = torch.full((24,), -100)
    assert value_of(kind(), student, teacher, target) == 0
    assert gradient_of(kind(), student, teacher, target).eq(0).all()


@every
@pytest.mark.parametrize("lay", [lambda rows: rows, as_tokens, as_pixels])
def test_class_probabilities_count_as_their_likeliest_class(kind: type[Criterion], lay: object) -> None:
    student, teacher, target = logits_and_labels()
    mixed = 0.6 * torch.nn.functional.one_hot(target, 5) + 0.4 * torch.nn.functional.one_hot(target.roll(1), 5)
    found = value_of(kind(), lay(student), lay(teacher), lay(mixed))
    torch.testing.assert_close(found, value_of(kind(), student, teacher, target), rtol=1e-12, atol=0)


@every
def test_a_copy_of_the_batch_and_another_order_of_classes_change_nothing(kind: type[Criterion]) -> None:
    student, teacher, target = logits_and_labels()
    expected = value_of(kind(), student, teacher, target)
    twice = value_of(kind(), student.repeat(2, 1), teacher.repeat(2, 1), target.repeat(2))
    torch.testing.assert_close(twice, expected, rtol=1e-12, atol=0)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = value_of(kind(), student[:, order], teacher[:, order], order.argsort()[target])
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_extreme_logits_stay_finite(kind: type[Criterion], dtype: torch.dtype, temperature: float) -> None:
    extreme = [[1e4, -1e4, 0.0, 5.0], [-1e4, -1e4, 1e4, 1e4], [1e4, 1e4, 1e4, 1e4], [0.0, 1.0, 2.0, -1e4]]
    student = torch.tensor(extreme, dtype=dtype)
    criterion = kind(temperature=temperature)  # type: ignore[call-arg]
    for teacher in (student.roll(1, 0), -student, student):
        for target in (torch.tensor([0, 1, 2, 3]), torch.tensor([1, 3, 0, 0])):
            value = value_of(criterion, student, teacher, target)
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert value >= -1e-6
            assert gradient_of(criterion, student, teacher, target).isfinite().all()


@every
@pytest.mark.parametrize("classes", [1, 2])
def test_fewer_than_three_classes_are_refused(kind: type[Criterion], classes: int) -> None:
    logits, target = draw(4, classes), torch.zeros(4, dtype=torch.long)
    with pytest.raises(
        ValueError, match=f"{kind.__name__} needs at least 3 classes, and there .* {classes}: .*SoftTarget"
    ):
        value_of(kind(), logits, logits, target)


@every
def test_labels_that_do_not_fit_are_refused(kind: type[Criterion]) -> None:
    student, teacher, target = logits_and_labels()
    with pytest.raises(ValueError, match="the criterion needs labels, and the batch has none"):
        value_of(kind(), student, teacher)
    with pytest.raises(ValueError, match=r"labels \[4, 6\] do not fit logits \[24, 5\]|labels \[3\]"):
        value_of(kind(), student, teacher, target[:3])
    with pytest.raises(ValueError, match=r"class probabilities \[24, 4\] do not fit logits \[24, 5\]"):
        value_of(kind(), student, teacher, torch.rand(24, 4))
    with pytest.raises(ValueError, match="student has 5 classes and the teacher 4"):
        value_of(kind(), student, teacher[:, :4], target)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"alpha": -1.0, "beta": 1.0}, "alpha must be finite and at least 0, not -1.0"),
        ({"alpha": 1.0, "beta": float("nan")}, "beta must be finite"),
        ({"alpha": 0.0, "beta": 0.0}, "alpha and beta are all 0"),
    ],
)
def test_shares_out_of_range_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shares(shares)
