"""The CIFAR ResNets: those of the paper, and of the weights that people share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.datasets import ImageFolder

from lit_distill import models
from lit_distill.data.base import image_pipeline
from lit_distill.models import CifarResNet, load
from lit_distill.models.cifar_resnet import BasicBlock
from lit_distill.utils.tensors import count_parameters


@pytest.mark.parametrize(
    ("make", "depth", "parameters"),
    [
        (models.resnet8, 8, 75_290),
        (models.resnet20, 20, 269_722),
        (models.resnet32, 32, 464_154),
        (models.resnet44, 44, 658_586),
        (models.resnet56, 56, 853_018),
        (models.resnet110, 110, 1_727_962),
    ],
)
def test_depth_and_parameters(make: Callable[[], CifarResNet], depth: int, parameters: int) -> None:
    model = make()
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()) == depth
    assert count_parameters(model) == parameters


@pytest.mark.parametrize("classes", [10, 100])
def test_shapes_of_every_stage(classes: int) -> None:
    x = torch.randn(2, 3, 32, 32)
    model = models.resnet8(classes)
    outputs = models.resnet8(classes)
    assert outputs(x).shape == (2, classes)
    x = F.relu(model.bn1(model.conv1(x)))
    for stage, shape in [("layer1", (2, 16, 32, 32)), ("layer2", (2, 32, 16, 16)), ("layer3", (2, 64, 8, 8))]:
        x = getattr(model, stage)(x)
        assert x.shape == shape
    assert count_parameters(model) == 75_290 + 65 * (classes - 10)


def test_names_are_those_of_the_shared_weights() -> None:
    names = [name for name, _ in models.resnet8().named_parameters()]
    assert names[:5] == ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.bn1.weight"]
    assert names[-2:] == ["linear.weight", "linear.bias"]
    assert not any("shortcut" in name or "downsample" in name for name in names)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 8, 2), (4, 4, 1), (4, 4, 2)])
def test_option_a_shortcut(inputs: int, outputs: int, stride: int) -> None:
    """With a silent residual, a block is every second pixel, in the middle of zero channels."""
    block = BasicBlock(inputs, outputs, stride).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, inputs, 6, 6)
    y = block(x)
    pad = (outputs - inputs) // 2
    assert y.shape == (2, outputs, 6 // stride, 6 // stride)
    assert torch.equal(y[:, pad : pad + inputs], x[:, :, ::stride, ::stride])
    assert not y[:, :pad].any()
    assert not y[:, pad + inputs :].any()


def test_a_block_is_the_papers_formula() -> None:
    block = BasicBlock(3, 3, 1).eval()
    x = torch.randn(2, 3, 5, 5)
    residual = F.conv2d(F.conv2d(x, block.conv1.weight, padding=1).relu(), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), F.relu(x + residual), atol=1e-4, rtol=1e-4)


SHARED = [
    (models.resnet20, "resnet20-12fca82f.th"),
    (models.resnet32, "resnet32-d509ac18.th"),
    (models.resnet56, "resnet56-4bfd9763.th"),
]


@pytest.mark.parametrize(("make", "name"), SHARED, ids=[name for _, name in SHARED])
def test_third_party_weights_load(make: Callable[[], CifarResNet], name: str, shared_data: Path) -> None:
    path = shared_data / "teachers" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])
    model = load(make(), path)
    assert model.conv1.weight.device.type == "cpu"
    content = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):  # older than the counter
            assert torch.equal(value, content[f"module.{key}"]), key
    with pytest.raises(ValueError, match="does not fit CifarResNet"):
        load(models.resnet8(), path)


def test_third_party_weights_classify(shared_data: Path, cifar_images: Path) -> None:
    """81.03 % on the whole test set, so that 200 images, 20 of each class, are well above two thirds."""
    model = load(models.resnet20(), shared_data / "teachers" / "resnet20-12fca82f.th").eval()
    data = ImageFolder(str(cifar_images / "test"), image_pipeline((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images, labels = zip(*(data[index] for index in range(0, 10_000, 50)), strict=True)
    with torch.no_grad():
        found = model(torch.stack(images)).argmax(1)
    assert (found == torch.tensor(labels)).float().mean() > 0.7


def test_grey_images() -> None:
    model = models.resnet8(5, in_channels=1)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 5)
    assert count_parameters(models.resnet8(5)) - count_parameters(model) == 2 * 16 * 9
