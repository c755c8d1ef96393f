import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.criteria import AB
from lit_distill.criteria.ab import activation_boundary
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boundary_by_hand(student: Tensor, teacher: Tensor, margin: float) -> float:
    """As the authors' code has it: two cases, each with its own condition."""
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
    return total / len(student)


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_formula_equals_a_hand_computation(margin: float) -> None:
    student, teacher = 2 * draw(3, 4, 2, 2), draw(3, 4, 2, 2, seed=1).clamp(min=0)  # zeros: after a ReLU
    expected = boundary_by_hand(student, teacher, margin)
    assert activation_boundary(student, teacher, margin).item() == pytest.approx(expected, rel=1e-12)


def test_only_the_teachers_sign_counts() -> None:
    student, teacher = draw(3, 4), draw(3, 4, seed=1)
    expected = activation_boundary(student, teacher)
    torch.testing.assert_close(activation_boundary(student, teacher.clamp(min=0)), expected)
    torch.testing.assert_close(activation_boundary(student, 100 * teacher), expected)
    assert activation_boundary(1.5 * teacher.sign(), teacher).item() == 0


def test_value_weighs_the_last_pair_most_and_goes_through_the_connector() -> None:
    torch.manual_seed(0)
    student = {name: draw(4, 3, 2, 2, seed=i) for i, name in enumerate("abc")}
    teacher = {name: draw(4, 5, 2, 2, seed=9 + i) for i, name in enumerate("abc")}
    criterion = AB(list("abc"), list("abc"))
    outputs_s, outputs_t = Outputs(torch.zeros(1), student), Outputs(torch.zeros(1), teacher)
    criterion.build(outputs_s, outputs_t)
    criterion.double()
    expected = 0.0
    for name, weight, projector in zip("abc", (0.25, 0.5, 1.0), criterion.projectors, strict=True):
        assert isinstance(projector.norm, nn.BatchNorm2d)
        assert projector.linear.bias is None
        x = F.conv2d(student[name], projector.linear.weight)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        expected += weight * boundary_by_hand((x - mean) / (variance + 1e-5).sqrt(), teacher[name], 1.0)
    assert criterion(outputs_s, outputs_t, None).item() == pytest.approx(expected, rel=1e-10)


def test_a_bad_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin must be above 0 and finite, not 0"):
        AB("a", "a", 0)
