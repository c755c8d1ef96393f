import math

import pytest
import torch
from torch import Tensor, nn

from lit_distill import Outputs, SoftTarget
from lit_distill.capture.capture import Capture
from lit_distill.criteria import SDD
from lit_distill.criteria.sdd import RegionLogits, sdd
from lit_distill.models import resnet8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(v / temperature) for v in row]
    return [e / sum(exponentials) for e in exponentials]


def sdd_by_hand(student: Tensor, teacher: Tensor, target: list[int], temperature: float, weight: float) -> float:
    values = []
    for regions_s, regions_t, y in zip(student.tolist(), teacher.tolist(), target, strict=True):
        whole_right = max(range(len(regions_t[0])), key=lambda c: regions_t[0][c]) == y
        for s, t in zip(regions_s, regions_t, strict=True):
            right = max(range(len(t)), key=lambda c: t[c]) == y
            p_s, p_t = softmax(s, temperature), softmax(t, temperature)
            divergence = sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
            values.append(divergence * (weight if right != whole_right else 1))
    return temperature**2 * sum(values) / len(values)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_value_equals_a_hand_computation(weight: float) -> None:
    student, teacher, target = 2 * draw(5, 7, 3), 2 * draw(5, 7, 3, seed=1), torch.tensor([0, 1, 2, 0, 1])
    expected = sdd_by_hand(student, teacher, target.tolist(), 4.0, weight)
    assert sdd(student, teacher, target, 4.0, weight).item() == pytest.approx(expected, rel=1e-12)
    found = SDD("a", "a", 4.0, weight)(Outputs(student, {"a": student}), Outputs(teacher, {"a": teacher}), target)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_both_kinds_of_disagreement_count_double() -> None:
    yes, no = [5.0, 0.0], [0.0, 5.0]
    student = draw(2, 2, 2)
    teacher = torch.tensor([[yes, no], [no, yes]], dtype=torch.float64)
    plain, double = (sdd(student, teacher, torch.tensor([0, 0]), complementary=w) for w in (1.0, 2.0))
    whole = sdd(student, teacher, torch.tensor([0, 0]), complementary=0.0)
    torch.testing.assert_close(double - plain, plain - whole)
    unknown = sdd(student, teacher, torch.tensor([-100, -100]))
    torch.testing.assert_close(unknown, plain)


def test_one_region_is_plain_distillation() -> None:
    student, teacher, target = draw(5, 1, 3), draw(5, 1, 3, seed=1), torch.tensor([0, 1, 2, 0, 1])
    expected = SoftTarget(4.0)(Outputs(student[:, 0]), Outputs(teacher[:, 0]), None)
    torch.testing.assert_close(sdd(student, teacher, target), expected)


def test_the_wrapper_classifies_each_region() -> None:
    torch.manual_seed(0)
    model = resnet8(5).eval()
    network = RegionLogits(model).eval()
    capture = Capture(network, ["regions", "model.layer3"])
    images = torch.randn(2, 3, 32, 32)
    outputs = capture.run(images)
    torch.testing.assert_close(outputs.logits, model(images))
    regions, feature = outputs.features["regions"], outputs.features["model.layer3"]
    assert regions.shape == (2, 21, 5)
    torch.testing.assert_close(regions[:, 0], outputs.logits)
    torch.testing.assert_close(regions[:, 2], model.linear(feature[:, :, :4, 4:].mean((2, 3))))
    torch.testing.assert_close(regions[:, 5 + 4], model.linear(feature[:, :, 2:4, 0:2].mean((2, 3))))
    torch.testing.assert_close(regions[:, 5:].mean(1), outputs.logits)


def test_the_student_learns_through_its_classifier() -> None:
    network, teacher = RegionLogits(resnet8(5)), RegionLogits(resnet8(5)).eval()
    images = torch.randn(2, 3, 32, 32)
    student = Capture(network, ["regions"]).run(images)
    with torch.no_grad():
        taught = Capture(teacher, ["regions"]).run(images)
    SDD()(student, taught, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.model.parameters())


def test_a_network_that_overwrites_its_map_is_read_before() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer3 = nn.Conv2d(3, 4, 1)
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.linear(self.layer3(x).mul_(0).mean((2, 3)))
            return logits

    network = RegionLogits(Overwriting())
    images = torch.randn(1, 3, 4, 4)
    regions = Capture(network, ["regions"]).run(images).features["regions"]
    expected = network.model.linear(network.model.layer3(images).mean((2, 3)))
    torch.testing.assert_close(regions[:, 0], expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="scales must begin with 1"):
        RegionLogits(resnet8(), scales=(2, 4))
    with pytest.raises(ValueError, match="no layer 'fc' in CifarResNet; name its classifier"):
        RegionLogits(resnet8(), classifier="fc")
    with pytest.raises(ValueError, match="no layer 'layer9'"):
        RegionLogits(resnet8(), "layer9")
    with pytest.raises(ValueError, match="complementary must be finite and at least 0"):
        SDD(complementary=-1)
    example = Outputs(draw(2, 3), {"regions": draw(2, 3)})
    with pytest.raises(ValueError, match="wrap both networks in RegionLogits"):
        SDD()(example, example, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="SDD needs labels"):
        SDD()(example, example, None)
