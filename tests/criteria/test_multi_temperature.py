import math

import pytest
import torch
from torch import Tensor

from lit_distill import Outputs, SoftTarget
from lit_distill.criteria import MultiTemperature


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kd_by_hand(student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    values = []
    for s, t in zip(student, teacher, strict=True):
        e_s, e_t = [math.exp(v / temperature) for v in s], [math.exp(v / temperature) for v in t]
        values.append(
            sum(b / sum(e_t) * math.log(b * sum(e_s) / (a * sum(e_t))) for a, b in zip(e_s, e_t, strict=True))
        )
    return temperature**2 * sum(values) / len(values)


def test_value_is_the_mean_of_a_hand_computation() -> None:
    student, teacher = 2 * draw(4, 6), 3 * draw(4, 6, seed=1)
    expected = sum(kd_by_hand(student.tolist(), teacher.tolist(), t) for t in (2, 3, 4, 5, 6)) / 5
    assert MultiTemperature()(Outputs(student), Outputs(teacher), None).item() == pytest.approx(expected, rel=1e-12)


def test_reference_value_at_one_temperature() -> None:
    g = torch.Generator().manual_seed(0)
    student = (2 * torch.randn(8, 10, generator=g, dtype=torch.float64)).requires_grad_()
    teacher = 3 * torch.randn(8, 10, generator=g, dtype=torch.float64)
    value = MultiTemperature((4.0,))(Outputs(student), Outputs(teacher), None)
    value.backward()
    assert value.item() == pytest.approx(5.5365694643242085, rel=1e-10)
    assert student.grad is not None
    assert student.grad.norm().item() == pytest.approx(0.39713499888899606, rel=1e-10)


def test_masked_tokens_and_dense_logits() -> None:
    criterion, plain = MultiTemperature((1.0, 4.0)), [SoftTarget(1.0), SoftTarget(4.0)]
    student, teacher = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0]]).bool()
    for outputs in (Outputs(student, mask=mask), Outputs(student.permute(0, 2, 1).unsqueeze(-1))):
        other = Outputs(teacher if outputs.mask is not None else teacher.permute(0, 2, 1).unsqueeze(-1))
        expected = sum(criterion(outputs, other, None) for criterion in plain) / 2
        torch.testing.assert_close(criterion(outputs, other, None), expected)


def test_bad_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match="temperatures must name at least one"):
        MultiTemperature(())
    with pytest.raises(ValueError, match=r"temperatures\[1\] must be above 0 and finite, not 0"):
        MultiTemperature((1.0, 0.0))
