import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria import TeacherFree
from lit_distill.criteria.teacher_free import teacher_free, virtual_teacher
from lit_distill.outputs import Outputs

LABELS = torch.tensor([2, 0, 1])


def draw(*shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def value_of(logits: Tensor, target: Tensor | None, mask: Tensor | None = None, **settings: float) -> Tensor:
    value: Tensor = TeacherFree(**settings)(Outputs(logits, mask=mask), Outputs.nothing(), target)
    return value


def by_hand(logits: Tensor, labels: Tensor, a: float, temperature: float) -> float:
    """Equation 9, with powers of probabilities for the softening: p^(1/T) over its sum."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        classes = len(row)
        p = [a if k == label else (1 - a) / (classes - 1) for k in range(classes)]
        soft = [value ** (1 / temperature) for value in p]
        soft = [value / sum(soft) for value in soft]
        weights = [math.exp(z / temperature) for z in row]
        total += sum(q * math.log(q / (w / sum(weights))) for q, w in zip(soft, weights, strict=True))
    return temperature**2 * total / len(logits)


@pytest.mark.parametrize("a", [0.9, 0.99])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("classes", [3, 7])
def test_value_equals_a_hand_computation(a: float, temperature: float, classes: int) -> None:
    logits = draw(3, classes)
    expected = by_hand(logits, LABELS, a, temperature)
    assert teacher_free(logits, LABELS, a, temperature).item() == pytest.approx(expected, rel=1e-6)


def test_the_virtual_teacher_has_the_papers_probabilities() -> None:
    expected = torch.full((3, 5), 0.025).scatter_(1, LABELS.unsqueeze(1), 0.9)
    torch.testing.assert_close(virtual_teacher(LABELS, 5, 0.9).softmax(-1), expected)
    torch.testing.assert_close(virtual_teacher(F.one_hot(LABELS, 5).float(), 5, 0.9).softmax(-1), expected)


def test_a_mixed_label_has_the_mean_of_its_virtual_teachers() -> None:
    mixed = torch.tensor([[0.7, 0.3, 0.0]])
    one, other = (virtual_teacher(torch.tensor([label]), 3, 0.9).exp() for label in (0, 1))
    torch.testing.assert_close(virtual_teacher(mixed, 3, 0.9).exp(), 0.7 * one + 0.3 * other)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_zero_value_and_gradient_at_the_virtual_teacher(temperature: float) -> None:
    logits = virtual_teacher(F.one_hot(LABELS, 4).double(), 4, 0.95).requires_grad_()
    value = teacher_free(logits, F.one_hot(LABELS, 4).double(), 0.95, temperature)
    value.backward()
    assert abs(value.item()) < 1e-12
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-14


@pytest.mark.parametrize("classes", [2, 5])
def test_at_temperature_1_it_is_label_smoothing(classes: int) -> None:
    labels = LABELS % classes
    logits = draw(3, classes).requires_grad_()
    smoothing = (1 - 0.9) * classes / (classes - 1)
    smoothed = torch.autograd.grad(F.cross_entropy(logits, labels, label_smoothing=smoothing), logits)[0]
    found = torch.autograd.grad(teacher_free(logits, labels, 0.9, 1.0), logits)[0]
    torch.testing.assert_close(found, smoothed, rtol=1e-6, atol=1e-9)


def test_gradients_keep_their_size_as_the_temperature_grows() -> None:
    logits = (0.1 * draw(16, 10)).requires_grad_()
    labels = torch.arange(16) % 10
    sizes = [
        torch.autograd.grad(teacher_free(logits, labels, 0.5, t), logits)[0].norm().item() for t in (10.0, 20.0, 40.0)
    ]
    assert max(sizes) < 1.5 * min(sizes)


def test_unknown_labels_teach_nothing() -> None:
    logits = draw(3, 4).requires_grad_()
    known = torch.tensor([2, -100, 1])
    expected = teacher_free(logits[[0, 2]], LABELS[[0, 2]])
    torch.testing.assert_close(value_of(logits, known), expected, rtol=1e-12, atol=0)
    nothing = value_of(logits, torch.full((3,), -100))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("dense", [False, True])
def test_masked_positions_do_not_count(dense: bool) -> None:
    logits = draw(2, 4, 2, 3) if dense else draw(2, 6, 4)
    labels = torch.arange(12).reshape(2, 2, 3) % 4 if dense else torch.arange(12).reshape(2, 6) % 4
    mask = labels != 3
    rows = (logits.movedim(1, -1) if dense else logits)[mask]
    torch.testing.assert_close(value_of(logits, labels, mask), teacher_free(rows, labels[mask]), rtol=1e-12, atol=0)
    everything = (logits.movedim(1, -1) if dense else logits).reshape(-1, 4)
    torch.testing.assert_close(value_of(logits, labels), teacher_free(everything, labels.flatten()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    value = value_of(logits, torch.tensor([1, 2]))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_it_needs_labels_and_no_teacher() -> None:
    assert TeacherFree.needs_target
    assert not TeacherFree.needs_teacher
    with pytest.raises(ValueError, match="needs labels"):
        value_of(draw(2, 3), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.0}, r"confidence must be in \(0, 1\), not 1.0"),
        ({"confidence": 0.0}, r"confidence must be in \(0, 1\)"),
        ({"temperature": -1.0}, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherFree(**settings)


def test_a_confidence_below_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1/3 .* and 1, not 0.3"):
        value_of(draw(3, 3), LABELS, confidence=0.3)
