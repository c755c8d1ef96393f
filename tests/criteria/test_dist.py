import pytest
import torch
from torch import Tensor

from lit_distill.criteria import DIST
from lit_distill.criteria.dist import pearson
from tests.criteria.logits_by_hand import (
    as_pixels,
    as_tokens,
    correlation,
    draw,
    gradient_of,
    reference_logits,
    softmax,
    value_of,
)


def by_hand(student: Tensor, teacher: Tensor, beta: float, gamma: float, tau: float) -> float:
    p_s = [softmax(row, tau) for row in student.tolist()]
    p_t = [softmax(row, tau) for row in teacher.tolist()]
    columns = [[list(column) for column in zip(*p, strict=True)] for p in (p_s, p_t)]
    inter = [correlation(s, t, 0.0) for s, t in zip(p_s, p_t, strict=True)]
    intra = [correlation(s, t, 0.0) for s, t in zip(*columns, strict=True)]
    return tau**2 * (beta * (1 - sum(inter) / len(inter)) + gamma * (1 - sum(intra) / len(intra)))


def authors(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """The authors' code: 1e-8 beside the product of the norms."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        return cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))

    p_s, p_t = (student / tau).softmax(1), (teacher / tau).softmax(1)
    return tau**2 * (2 - correlate(p_s, p_t).mean() - correlate(p_s.t(), p_t.t()).mean())


def test_reference_value() -> None:
    student, teacher, _ = reference_logits()
    # Of the authors' code, whose 1e-8 is worth some 1e-8 at 10 classes.
    assert value_of(DIST(), student, teacher).item() == pytest.approx(2.070069945471423, abs=1e-7, rel=0)
    gradient = gradient_of(DIST(), student, teacher).norm().item()
    assert gradient == pytest.approx(0.08586546435581295, abs=1e-7, rel=0)


@pytest.mark.parametrize(
    ("classes", "batch", "scale", "tolerance"),
    [(10, 32, 1.0, 1e-6), (10, 32, 6.0, 1e-6), (100, 32, 1.0, 1e-5), (1000, 256, 1.0, 1e-4), (1000, 32, 3.0, 1e-2)],
)
def test_the_authors_value_but_for_their_epsilon(classes: int, batch: int, scale: float, tolerance: float) -> None:
    student, teacher = (scale * draw(batch, classes, seed=seed) for seed in (1, 2))
    expected = authors(student, teacher, 1.0)
    assert value_of(DIST(), student, teacher).item() == pytest.approx(expected.item(), abs=tolerance, rel=0)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000, 21000])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 6.0, 1e4])
def test_zero_at_the_teacher_for_any_number_of_classes(classes: int, scale: float) -> None:
    logits = scale * draw(32, classes).float()
    assert abs(value_of(DIST(), logits, logits).item()) < 2e-6
    if classes == 1000 and scale == 6:
        assert authors(logits, logits, 1.0).item() > 0.05


@pytest.mark.parametrize(("beta", "gamma", "tau"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.0, 1.0, 2.0), (1.0, 0.0, 0.5)])
def test_equals_a_hand_computation(beta: float, gamma: float, tau: float) -> None:
    student, teacher = draw(9, 6, seed=1), draw(9, 6, seed=2)
    expected = by_hand(student, teacher, beta, gamma, tau)
    found = value_of(DIST(beta, gamma, tau), student, teacher).item()
    assert found == pytest.approx(expected, abs=1e-10, rel=0)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_zero_at_the_teacher(tau: float) -> None:
    logits = draw(9, 6)
    assert abs(value_of(DIST(tau=tau), logits, logits).item()) < 1e-12
    assert gradient_of(DIST(tau=tau), logits, logits).abs().max() < 1e-12


def test_only_the_shape_of_a_prediction_counts() -> None:
    p_s, p_t = torch.softmax(draw(9, 6, seed=1), 1), torch.softmax(draw(9, 6, seed=2), 1)
    flatter = 0.3 * p_t + 0.7 / 6
    torch.testing.assert_close(pearson(p_s, flatter), pearson(p_s, p_t), rtol=1e-6, atol=0)
    torch.testing.assert_close(pearson(flatter, p_t), torch.ones(9, dtype=torch.float64), rtol=1e-6, atol=0)


def test_order_of_samples_and_classes_changes_nothing() -> None:
    student, teacher = draw(9, 6, seed=1), draw(9, 6, seed=2)
    expected = value_of(DIST(), student, teacher)
    rows, columns = torch.randperm(9), torch.randperm(6)
    moved = value_of(DIST(), student[rows][:, columns], teacher[rows][:, columns])
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0)
    twice = value_of(DIST(), student.repeat(2, 1), teacher.repeat(2, 1))
    torch.testing.assert_close(twice, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("lay", [as_tokens, as_pixels])
def test_each_position_that_counts_is_a_sample(lay: object) -> None:
    student, teacher = draw(24, 5, seed=1), draw(24, 5, seed=2)
    keep = torch.arange(24) % 4 > 0
    for mask in (None, keep):
        rows = slice(None) if mask is None else keep
        expected = value_of(DIST(), student[rows], teacher[rows])
        found = value_of(DIST(), lay(student), lay(teacher), mask=None if mask is None else lay(mask))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradient = gradient_of(DIST(), lay(student), lay(teacher), mask=lay(keep))
    assert torch.equal((gradient != 0).any(1 if gradient.dim() == 4 else -1), lay(keep))


def test_a_batch_of_one_has_no_relation_within_a_class() -> None:
    student, teacher = draw(1, 6, seed=1), draw(1, 6, seed=2)
    assert value_of(DIST(0.0, 1.0, 2.0), student, teacher).item() == 0.0
    assert gradient_of(DIST(0.0, 1.0, 2.0), student, teacher).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_starts_at_zero_learns_and_one_beside_a_uniform_teacher_does_not(dtype: torch.dtype) -> None:
    student, teacher = torch.zeros(6, 5, dtype=dtype), draw(6, 5).to(dtype)
    assert value_of(DIST(), student, teacher).item() == 2.0
    gradient = gradient_of(DIST(), student, teacher).float()
    assert 0 < gradient.abs().max() < 20
    assert value_of(DIST(), student - 0.1 * gradient.to(dtype), teacher).item() < 1.5
    assert value_of(DIST(), teacher, student).item() == 2.0
    assert gradient_of(DIST(), teacher, student).eq(0).all()
    assert value_of(DIST(), student, student).item() == 0.0
    assert gradient_of(DIST(), student, student).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [0.05, 1.0, 20.0])
def test_extreme_logits_stay_finite(dtype: torch.dtype, tau: float) -> None:
    extreme = [[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [1e4, 1e4, 1e4], [0.0, 1.0, 2.0]]
    student = torch.tensor(extreme, dtype=dtype)
    for teacher in (student.roll(1, 0), -student, student):
        value = value_of(DIST(tau=tau), student, teacher)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient_of(DIST(tau=tau), student, teacher).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0}, "beta must be finite and at least 0"),
        ({"beta": 0.0, "gamma": 0.0}, "beta and gamma are all 0"),
        ({"tau": 0.0}, "tau must be above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DIST(**arguments)  # type: ignore[arg-type]


def test_other_classes_than_the_teachers_are_refused() -> None:
    with pytest.raises(ValueError, match="student has 3 classes and the teacher 4"):
        value_of(DIST(), draw(2, 3), draw(2, 4))
