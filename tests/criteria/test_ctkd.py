import math

import pytest
import torch
from torch import Tensor

from lit_distill import Outputs, SoftTarget
from lit_distill.criteria import CTKD
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.schedules import Cosine


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kd_by_hand(student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    values = []
    for s, t in zip(student, teacher, strict=True):
        e_s, e_t = [math.exp(v / temperature) for v in s], [math.exp(v / temperature) for v in t]
        p_s, p_t = [e / sum(e_s) for e in e_s], [e / sum(e_t) for e in e_t]
        values.append(sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True)))
    return temperature**2 * sum(values) / len(values)


def reference_inputs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    student = 2 * torch.randn(8, 10, generator=g, dtype=torch.float64)
    return student, 3 * torch.randn(8, 10, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("theta", [-3.0, 0.0, 1.0])
def test_value_equals_a_hand_computation(theta: float) -> None:
    student, teacher = 2 * draw(4, 6), 3 * draw(4, 6, seed=1)
    criterion = CTKD().double()
    criterion.theta.data.fill_(theta)
    temperature = 1 + 20 / (1 + math.exp(-theta))
    assert criterion.temperature == pytest.approx(temperature, rel=1e-12)
    found = criterion(Outputs(student), Outputs(teacher), None)
    assert found.item() == pytest.approx(kd_by_hand(student.tolist(), teacher.tolist(), temperature), rel=1e-10)


def test_at_four_it_is_the_reference_value_of_soft_targets() -> None:
    student, teacher = reference_inputs()
    student.requires_grad_()
    criterion = CTKD().double()
    criterion.theta.data.fill_(math.log(3 / 17))  # 1 + 20 * 0.15 = 4
    value = criterion(Outputs(student), Outputs(teacher), None)
    value.backward()
    assert value.item() == pytest.approx(5.5365694643242085, rel=1e-10)
    assert student.grad is not None
    assert student.grad.norm().item() == pytest.approx(0.39713499888899606, rel=1e-9)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_theta_gets_the_gradient_turned_round(strength: float) -> None:
    student, teacher = reference_inputs()
    criterion = CTKD(strength=strength).double()
    criterion(Outputs(student), Outputs(teacher), None).backward()
    step = 1e-6

    def value(theta: float) -> float:
        return kd_by_hand(student.tolist(), teacher.tolist(), 1 + 20 / (1 + math.exp(-theta)))

    slope = (value(1 + step) - value(1 - step)) / (2 * step)
    assert criterion.theta.grad is not None
    assert criterion.theta.grad.item() == pytest.approx(-strength * slope, rel=1e-5, abs=1e-12)


def test_training_raises_what_the_student_lowers() -> None:
    student, teacher = reference_inputs()
    criterion = CTKD().double()
    before = criterion(Outputs(student), Outputs(teacher), None)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        criterion(Outputs(student), Outputs(teacher), None).backward()
        optimizer.step()
    assert criterion(Outputs(student), Outputs(teacher), None) > before
    assert 1 < criterion.temperature < 21


def test_the_strength_is_scheduled_and_the_temperature_is_not() -> None:
    criteria = WeightedCriteria({"ctkd": CTKD()}, {"ctkd": 1}, {"ctkd.strength": Cosine(0, 1, 10)})
    strengths = []
    for epoch in (0, 5, 10, 11):
        criteria.advance(0, epoch)
        strengths.append(criteria["ctkd"].strength)
    assert strengths == pytest.approx([0, 0.5, 1, 1])
    with pytest.raises(ValueError, match="CTKD learns its temperature"):
        WeightedCriteria({"ctkd": CTKD()}, {"ctkd": 1}, {"ctkd.temperature": Cosine(1, 4, 10)})


def test_theta_is_saved() -> None:
    criterion = CTKD()
    criterion.theta.data.fill_(0.25)
    other = CTKD()
    other.load_state_dict(criterion.state_dict())
    assert other.temperature == criterion.temperature


def test_masked_tokens_and_dense_logits() -> None:
    criterion = CTKD(3.0, 1e-9).double()
    student, teacher = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0]]).bool()
    expected = SoftTarget(3.0)(Outputs(student[mask]), Outputs(teacher[mask]), None)
    torch.testing.assert_close(criterion(Outputs(student, mask=mask), Outputs(teacher), None), expected)
    dense_s, dense_t = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    expected = SoftTarget(3.0)(Outputs(dense_s), Outputs(dense_t), None)
    torch.testing.assert_close(criterion(Outputs(dense_s), Outputs(dense_t), None), expected)


@pytest.mark.parametrize("arguments", [{"low": 0.0}, {"span": -1.0}, {"strength": -0.1}])
def test_bad_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match="(low|span) must be above 0 and finite|strength must be finite and at least 0"
    ):
        CTKD(**arguments)
