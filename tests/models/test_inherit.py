"""A student that starts with its teacher's weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.models import SmallCNN, inherit, resnet8, resnet20


class Blocks(nn.Module):
    """A stem, equal blocks, a parameter of its own and a head."""

    def __init__(self, blocks: int, classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(2, width)
        self.token = nn.Parameter(torch.randn(width))
        self.body = nn.ModuleDict()
        self.body["layer"] = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(blocks)
        )
        self.act = nn.ReLU()
        self.head = nn.Linear(width, classes)


def randomised(model: nn.Module) -> nn.Module:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.normal_().abs_() if name.endswith("running_var") else value.normal_()
        else:
            value.fill_(7)
    return model


def assert_equal(student: nn.Module, teacher: nn.Module, pairs: dict[str, str]) -> None:
    for ours, theirs in pairs.items():
        mine, other = student.get_submodule(ours).state_dict(), teacher.get_submodule(theirs).state_dict()
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            assert torch.equal(value, other[name]), f"{ours}.{name}"


@pytest.mark.parametrize(
    ("teacher_blocks", "student_blocks", "every", "chosen"),
    [
        (6, 3, 2, [0, 2, 4]),
        (6, 3, None, [0, 2, 4]),
        (7, 3, None, [0, 2, 4]),
        (6, 2, 4, [0, 4]),
        (3, 3, None, [0, 1, 2]),
    ],
)
def test_every_nth_block_and_what_is_outside(
    teacher_blocks: int, student_blocks: int, every: int | None, chosen: list[int]
) -> None:
    teacher = randomised(Blocks(teacher_blocks))
    student = inherit(Blocks(student_blocks), teacher, every=every, blocks="body.layer")
    assert_equal(student, teacher, {f"body.layer.{i}": f"body.layer.{j}" for i, j in enumerate(chosen)})
    assert_equal(student, teacher, {"stem": "stem", "head": "head"})
    assert torch.equal(student.token, teacher.token)  # type: ignore[arg-type]


def test_what_has_another_shape_outside_the_blocks_stays() -> None:
    teacher, student = randomised(Blocks(4)), Blocks(2, classes=5)
    head = copy.deepcopy(student.head.state_dict())
    inherit(student, teacher, blocks="body.layer")
    assert torch.equal(student.head.weight, head["weight"])
    assert_equal(student, teacher, {"stem": "stem"})


def test_a_mapping_copies_what_it_names_and_nothing_else() -> None:
    teacher, student = randomised(Blocks(3)), randomised(Blocks(2))
    before = copy.deepcopy(student)
    layers = {"stem": "stem", "body.layer.1": "body.layer.2", "token": "token", "head.bias": "head.bias"}
    inherit(student, teacher, layers)
    assert_equal(student, teacher, {"stem": "stem", "body.layer.1": "body.layer.2"})
    assert_equal(student, before, {"body.layer.0": "body.layer.0"})
    assert torch.equal(student.token, teacher.token)  # type: ignore[arg-type]
    assert torch.equal(student.head.bias, teacher.head.bias)  # type: ignore[union-attr, arg-type]
    assert torch.equal(student.head.weight, before.head.weight)  # type: ignore[union-attr, arg-type]


def test_a_mapping_comes_after_the_blocks() -> None:
    teacher = randomised(Blocks(4))
    student = inherit(Blocks(2), teacher, {"body.layer.1": "body.layer.3"}, blocks="body.layer")
    assert_equal(student, teacher, {"body.layer.0": "body.layer.0", "body.layer.1": "body.layer.3"})


def test_nothing_is_shared_and_the_teacher_stays() -> None:
    teacher = randomised(Blocks(4))
    before = copy.deepcopy(teacher.state_dict())
    student = inherit(Blocks(2), teacher, blocks="body.layer")
    ours = {value.data_ptr() for value in student.state_dict().values()}
    assert not ours & {value.data_ptr() for value in teacher.state_dict().values()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_buffers_come_along() -> None:
    student = inherit(Blocks(2), randomised(Blocks(4)), blocks="body.layer")
    norm = student.get_submodule("body.layer.1.1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_batches_tracked == 7


def test_real_networks_compute_alike_up_to_where_they_are_alike() -> None:
    teacher = randomised(resnet20()).eval()
    student = inherit(resnet8(), teacher, {layer: layer for layer in ("conv1", "bn1", "layer1.0", "layer2.0")}).eval()
    found: dict[str, Tensor] = {}
    x = torch.rand(2, 3, 8, 8)
    for name, network in (("student", student), ("teacher", teacher)):
        network.get_submodule("layer1.0").register_forward_hook(
            lambda module, inputs, output, name=name: found.__setitem__(name, output)
        )
        network(x)
    assert torch.equal(found["student"], found["teacher"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to do"),
        ({"every": 2}, "every is 2: .* `blocks`, which is None"),
        ({"every": 0, "blocks": "body.layer"}, "every is 0: it must be at least 1"),
        ({"every": 4, "blocks": "body.layer"}, r"2 blocks at 'body.layer' and the teacher 4: every 4\. of them are 1"),
        ({"blocks": "body.layers"}, "no layer 'body.layers' in the student Blocks; did you mean 'body.layer'"),
        ({"layers": {"steam": "stem"}}, "no layer 'steam' in the student Blocks; did you mean 'stem'"),
        ({"layers": {"stem": "heat"}}, "no layer 'heat' in the teacher Blocks; did you mean 'head'"),
        ({"layers": {"act": "act"}}, "the student's layer 'act' has no weights"),
        (
            {"layers": {"stem": "head"}},
            r"student's 'stem' cannot start as the teacher's 'head': stem.weight is \[4, 2\] and head.weight \[3, 4\]",
        ),
        ({"layers": {"stem": "body.layer.0"}}, "stem.weight has no counterpart"),
    ],
)
def test_what_does_not_fit_is_said(arguments: dict[str, Any], message: str) -> None:
    student = Blocks(2)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=message):
        inherit(student, Blocks(4), **arguments)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_blocks_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"body.layer.0.0.weight is \[3, 3\] and body.layer.0.0.weight \[4, 4\]"):
        inherit(Blocks(2, width=3), Blocks(4), blocks="body.layer")


def test_it_says_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        inherit(SmallCNN(4, 3), SmallCNN(4, 3), {"stage1": "stage1"})
    assert "6 of the student's 20 tensors are the teacher's. As they were: stage2.0.weight" in caplog.text


class TestInflate:
    """2D convolutions in 3D ones."""

    def test_a_video_that_stands_still_has_the_logits_of_its_image(self) -> None:
        torch.manual_seed(0)
        image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
        video = nn.Sequential(nn.Conv3d(3, 4, (3, 3, 3)), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 5, (2, 3, 3)))
        randomised(image)
        inherit(video, image, inflate=True)
        x = torch.rand(2, 3, 8, 8)
        still = x.unsqueeze(2).expand(-1, -1, 6, -1, -1)
        found = video.eval()(still)
        torch.testing.assert_close(found, image.eval()(x).unsqueeze(2).expand_as(found))

    def test_torchvision_video_networks_start_as_image_networks(self, caplog: pytest.LogCaptureFixture) -> None:
        from torchvision.models import resnet18
        from torchvision.models.video import r3d_18

        image = resnet18(num_classes=7)
        with caplog.at_level("INFO"):
            with pytest.raises(
                ValueError, match=r"'stem\.0' cannot start as the teacher's 'conv1'.*\[64, 3, 3, 7, 7\]"
            ):
                inherit(r3d_18(num_classes=5), image, {"stem.0": "conv1"})
            video = inherit(r3d_18(num_classes=5), image, inflate=True)
        torch.testing.assert_close(video.get_parameter("layer3.0.conv1.0.weight").sum(2), image.layer3[0].conv1.weight)
        assert torch.equal(video.get_parameter("layer4.1.conv2.1.weight"), image.layer4[1].bn2.weight)
        assert "As they were: fc.weight, fc.bias" in caplog.text

    def test_layers_that_do_not_pair_are_refused(self) -> None:
        image, video = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv3d(4, 4, 3))
        with pytest.raises(ValueError, match="the student has 2 layers with weights and the teacher 1"):
            inherit(video, image, inflate=True)
        wide = nn.Sequential(nn.Conv3d(3, 6, 3), nn.Conv3d(6, 4, 3))
        with pytest.raises(ValueError, match=r"\[6, 3, 3, 3, 3\] and 0.weight \[4, 3, 3, 3\]"):
            inherit(wide, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), inflate=True)
