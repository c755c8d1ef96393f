import pytest
import torch
from torch import Tensor

from lit_distill.criteria import DKD, RLD
from tests.criteria.logits_by_hand import draw, gradient_of, kl, labels, softmax, value_of


def by_hand(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    temperature: float,
    confidence_temperature: float,
) -> float:
    terms = []
    for row_s, row_t, label in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        sure = max(softmax(row_t, confidence_temperature))
        own = softmax(row_s, confidence_temperature)[label]
        scd = confidence_temperature**2 * kl([sure, 1 - sure], [own, 1 - own])
        left = [c for c in range(len(row_t)) if row_t[c] < row_t[label]]
        p_t = softmax([row_t[c] for c in left], temperature)
        p_s = softmax([row_s[c] for c in left], temperature)
        terms.append(alpha * scd + beta * temperature**2 * kl(p_t, p_s))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature", "confidence"),
    [(1.0, 8.0, 4.0, 1.0), (1.0, 0.5, 1.0, 1.0), (1.0, 8.0, 2.0, 2.0), (0.0, 1.0, 3.0, 1.0), (1.0, 0.0, 1.0, 4.0)],
)
def test_equals_a_hand_computation(alpha: float, beta: float, temperature: float, confidence: float) -> None:
    student, teacher, target = draw(40, 6, seed=1), draw(40, 6, seed=2), labels(40, classes=6)
    lowest = teacher.argmin(1) == target
    assert lowest.any()  # nothing is left for the second part
    expected = by_hand(student, teacher, target, alpha, beta, temperature, confidence)
    found = value_of(RLD(alpha, beta, temperature, confidence), student, teacher, target).item()
    assert found == pytest.approx(expected, abs=1e-10, rel=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_where_the_teacher_is_right_it_is_dkd(temperature: float) -> None:
    student, teacher = draw(9, 6, seed=1), draw(9, 6, seed=2)
    target = teacher.argmax(1)
    expected = value_of(DKD(1.0, 8.0, temperature), student, teacher, target)
    found = value_of(RLD(1.0, 8.0, temperature, temperature), student, teacher, target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert value_of(RLD(), teacher, teacher, target).abs() < 1e-12
    assert gradient_of(RLD(), teacher, teacher, target).abs().max() < 1e-12


def test_classes_that_the_teacher_prefers_to_the_label_are_not_taught() -> None:
    teacher = torch.tensor([[3.0, 2.0, 2.0, 1.0, 0.0]]).double()
    student, target = draw(1, 5), torch.tensor([1])
    gradient = gradient_of(RLD(0.0, 1.0), student, teacher, target)
    assert gradient[0, :3].eq(0).all()  # likelier, the label, and one as likely
    assert gradient[0, 3:].ne(0).all()


def test_a_wrong_teacher_does_not_draw_the_label_down() -> None:
    teacher = torch.tensor([[8.0, 1.0, 0.0, -1.0]]).double()
    student, target = torch.zeros(1, 4).double(), torch.tensor([2])
    assert gradient_of(RLD(), student, teacher, target)[0, 2] < 0
    assert gradient_of(DKD(), student, teacher, target)[0, 2] > 0


def test_the_label_last_of_all_leaves_the_confidence_alone() -> None:
    student, teacher = draw(4, 5, seed=1), draw(4, 5, seed=2)
    target = teacher.argmin(1)
    assert value_of(RLD(0.0, 1.0), student, teacher, target) == 0
    assert gradient_of(RLD(0.0, 1.0), student, teacher, target).eq(0).all()
    assert value_of(RLD(1.0, 1.0), student, teacher, target) == value_of(RLD(1.0, 0.0), student, teacher, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha must be finite and at least 0, not -1.0"),
        ({"alpha": 0.0, "beta": 0.0}, "alpha and beta are all 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"confidence_temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLD(**arguments)  # type: ignore[arg-type]
