import io

import pytest
import torch
from torch import Tensor, nn

from lit_distill.criteria import SimKD
from lit_distill.criteria.sim_kd import ReusedClassifier, SimKDProjector, reuse_classifier
from lit_distill.models import resnet8
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(feature: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), {"layer3": feature})


def built(student: Tensor, teacher: Tensor, factor: int = 2) -> SimKD:
    torch.manual_seed(0)
    criterion = SimKD("layer3", "layer3", factor)
    criterion.build(outputs(student), outputs(teacher))
    return criterion


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_bottleneck_is_the_authors(factor: int) -> None:
    criterion = built(draw(2, 6, 4, 4), draw(2, 8, 4, 4), factor)
    middle = 8 // factor
    weights = [tuple(p.shape) for p in criterion.parameters() if p.dim() == 4]
    assert weights == [(middle, 6, 1, 1), (middle, middle, 3, 3), (8, middle, 1, 1)]
    assert all("bias" not in name for name, p in criterion.named_parameters() if p.dim() == 4)


def test_weights_at_factor_two_are_as_many_as_documented() -> None:
    criterion = built(draw(2, 6, 4, 4), draw(2, 8, 4, 4))
    assert sum(p.numel() for p in criterion.parameters() if p.dim() == 4) == 6 * 8 // 2 + 11 * 8**2 // 4


@pytest.mark.parametrize(("size_s", "size_t"), [(4, 4), (8, 4), (4, 8)])
def test_value_is_the_mean_of_squares_at_the_smaller_size(size_s: int, size_t: int) -> None:
    student, teacher = draw(3, 6, size_s, size_s), draw(3, 8, size_t, size_t, seed=1)
    criterion = built(student, teacher).eval()
    pooled_s, pooled_t = (nn.functional.avg_pool2d(f, f.shape[2] // 4) for f in (student, teacher))
    expected = (criterion.projectors[0].bottleneck(pooled_s) - pooled_t).square().sum() / pooled_t.numel()
    torch.testing.assert_close(criterion(outputs(student), outputs(teacher), None), expected)


def trained() -> tuple[nn.Module, nn.Module, SimKD]:
    torch.manual_seed(0)
    student, teacher = resnet8(5), resnet8(7)
    criterion = built(draw(2, 64, 8, 8), draw(2, 64, 8, 8))
    criterion.train()
    criterion(outputs(draw(4, 64, 8, 8)), outputs(draw(4, 64, 8, 8, seed=1)), None)  # moves the running statistics
    return student.eval(), teacher.eval(), criterion


def test_the_exported_network_is_student_projector_and_teachers_classifier() -> None:
    student, teacher, criterion = trained()
    network = reuse_classifier(student, criterion, teacher.linear)
    images = draw(3, 3, 32, 32)
    x = torch.relu(student.bn1(student.conv1(images)))
    feature = student.layer3(student.layer2(student.layer1(x)))
    expected = teacher.linear(criterion.projectors[0].eval()(feature).mean((2, 3)))
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network(x=images), expected)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.modules())
    assert not network.training
    assert not any(p.requires_grad for p in network.classifier.parameters())
    assert teacher.linear.weight.requires_grad  # a copy was frozen
    assert student.layer3[0].conv1.weight is not network.student.layer3[0].conv1.weight


@pytest.mark.slow
def test_the_exported_network_saves_and_loads_and_exports() -> None:
    student, teacher, criterion = trained()
    network = reuse_classifier(student, criterion, teacher.linear)
    images = draw(3, 3, 32, 32)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = ReusedClassifier(
        resnet8(5), "layer3", SimKDProjector((2, 64, 8, 8), (2, 64, 8, 8)), nn.Linear(64, 7)
    ).eval()
    other.load_state_dict(torch.load(file))
    torch.testing.assert_close(other(images), network(images))
    program = torch.export.export(network, (images,), strict=False)  # as newer PyTorch does unless told otherwise
    torch.testing.assert_close(program.module()(images), network(images))


def test_the_exported_network_can_be_the_student_from_the_start() -> None:
    student, teacher, _ = trained()
    network = ReusedClassifier(student, "layer3", SimKDProjector((1, 64, 8, 8), (1, 64, 8, 8)), teacher.linear).train()
    network(draw(2, 3, 32, 32)).sum().backward()
    assert student.layer1[0].conv1.weight.grad is not None
    assert teacher.linear.weight.grad is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="factor must be at least 1, not 0"):
        SimKD("a", "a", 0)
    with pytest.raises(ValueError, match="SimKD needs maps"):
        built(draw(2, 6), draw(2, 6, 4, 4))
    with pytest.raises(ValueError, match="never trained"):
        reuse_classifier(resnet8(), SimKD("layer3", "layer3"), nn.Linear(64, 3))


def test_a_students_tokens_are_a_map_and_a_teachers_are_refused() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 4, 4), torch.rand(3, 6, 4, 4)
    tokens = torch.cat([torch.ones(3, 1, 4), student.flatten(2).mT], 1)
    criterion, other = SimKD("a", "a"), SimKD("a", "a")
    sides = [Outputs(torch.zeros(3, 2), {"a": feature}) for feature in (student, tokens, teacher)]
    criterion.build(sides[0], sides[2])
    other.build(sides[1], sides[2])
    other.load_state_dict(criterion.state_dict())
    torch.testing.assert_close(other(sides[1], sides[2]), criterion(sides[0], sides[2]))
    with pytest.raises(ValueError, match="The teacher's must be the map whose mean its classifier takes"):
        SimKD("a", "a").build(sides[0], sides[1])
