import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import NKD, HardTarget
from tests.criteria.logits_by_hand import draw, gradient_of, labels, softmax, value_of, without


def by_hand(student: Tensor, teacher: Tensor, target: Tensor, gamma: float, temperature: float) -> float:
    terms = []
    for row_s, row_t, label in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        own = -softmax(row_t)[label] * math.log(softmax(row_s)[label])
        p_t, p_s = softmax(without(row_t, label), temperature), softmax(without(row_s, label), temperature)
        others = -sum(t * math.log(s) for s, t in zip(p_s, p_t, strict=True))
        terms.append(own + gamma * temperature**2 * others)
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1.0), (3.5, 3.0), (1.0, 0.5)])
def test_equals_a_hand_computation(gamma: float, temperature: float) -> None:
    student, teacher, target = draw(9, 6, seed=1), draw(9, 6, seed=2), labels(9, classes=6)
    expected = by_hand(student, teacher, target, gamma, temperature)
    found = value_of(NKD(gamma, temperature), student, teacher, target).item()
    assert found == pytest.approx(expected, abs=1e-10, rel=0)


def test_a_certain_teacher_says_the_label_once_more() -> None:
    student, target = draw(9, 6, seed=1), labels(9, classes=6)
    teacher = 1e3 * torch.nn.functional.one_hot(target, 6).double()
    others = value_of(NKD(2.0), student, teacher, target) - value_of(NKD(1.0), student, teacher, target)
    own = value_of(NKD(1.0), student, teacher, target) - others
    torch.testing.assert_close(own, value_of(HardTarget(), student, teacher, target), rtol=1e-10, atol=0)


def test_the_other_classes_are_matched_at_the_teacher() -> None:
    logits, target = draw(9, 6), labels(9, classes=6)
    more, less = (gradient_of(NKD(gamma, 2.0), logits, logits, target) for gamma in (5.0, 1.0))
    torch.testing.assert_close(more, less, rtol=0, atol=1e-12)  # what gamma weighs has no gradient there
    # What is left draws the label's probability up: it is a cross-entropy with the teacher's share of it.
    p = torch.softmax(logits, 1)
    one_hot = torch.nn.functional.one_hot(target, 6)
    expected = p.gather(1, target[:, None]) * (p - one_hot) / 9
    torch.testing.assert_close(less, expected, rtol=0, atol=1e-12)


def test_only_the_other_classes_have_a_temperature() -> None:
    student, teacher, target = draw(9, 6, seed=1), draw(9, 6, seed=2), labels(9, classes=6)
    assert value_of(NKD(0.0, 4.0), student, teacher, target) == value_of(NKD(0.0, 1.0), student, teacher, target)
    assert value_of(NKD(1.0, 4.0), student, teacher, target) != value_of(NKD(1.0, 1.0), student, teacher, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": -1.0}, "gamma must be finite and at least 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NKD(**arguments)  # type: ignore[arg-type]
