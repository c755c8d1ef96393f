"""A network behind the transform of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2 import functional as V

from lit_distill import Capture, FeatureDistillation, FrozenTeacher, TeacherRuntime
from lit_distill.models import SmallCNN, adapt

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STUDENT_MEAN, STUDENT_STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]


def normalise(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return torch.stack([(pixels[:, c] - m) / s for c, (m, s) in enumerate(zip(mean, std, strict=True))], 1)


@pytest.mark.parametrize("size", [None, 5, (12, 20)])
def test_it_equals_a_transform_by_hand(size: int | tuple[int, int] | None) -> None:
    pixels = torch.rand(2, 3, 8, 8)
    network = SmallCNN(2, 3, in_channels=3).eval()
    adapted = adapt(network, size, MEAN, STD, STUDENT_MEAN, STUDENT_STD)
    resized = pixels if size is None else V.resize(pixels, [size, size] if isinstance(size, int) else list(size))
    expected = network(normalise(resized, MEAN, STD))
    found = adapted(normalise(pixels, STUDENT_MEAN, STUDENT_STD))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_each_part_alone() -> None:
    pixels, see = torch.rand(2, 3, 8, 8), nn.Identity()
    torch.testing.assert_close(adapt(see, mean=MEAN, std=STD)(pixels), normalise(pixels, MEAN, STD))
    given = normalise(pixels, STUDENT_MEAN, STUDENT_STD)
    torch.testing.assert_close(adapt(see, student_mean=STUDENT_MEAN, student_std=STUDENT_STD)(given), pixels)
    torch.testing.assert_close(adapt(see, 16)(pixels), V.resize(pixels, [16, 16]))
    assert torch.equal(adapt(see, 8)(pixels), pixels)
    assert torch.equal(adapt(see, channels=3)(pixels), pixels)
    assert torch.equal(adapt(see, channels=3)(pixels[:, :1]), pixels[:, :1].repeat(1, 3, 1, 1))
    torch.testing.assert_close(
        adapt(see, channels=1)(pixels), V.rgb_to_grayscale(pixels), rtol=0, atol=1e-3
    )  # torchvision rounds the coefficients to four digits


def test_grey_images_for_a_colour_network() -> None:
    """Each channel gets its own normalisation, after the one of the grey image was undone."""
    grey = torch.rand(2, 1, 8, 8)
    found = adapt(nn.Identity(), mean=MEAN, std=STD, student_mean=[0.5], student_std=[0.25], channels=3)(
        (grey - 0.5) / 0.25
    )
    torch.testing.assert_close(found, normalise(grey.repeat(1, 3, 1, 1), MEAN, STD), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to do"),
        ({"mean": MEAN}, "mean and std belong together"),
        ({"student_std": STD}, "student_mean and student_std belong together"),
        ({"mean": MEAN, "std": [1.0]}, "mean has 3 channels and std 1"),
        ({"mean": MEAN, "std": [0.2, 0.0, 0.2]}, r"std\[1\] must be above 0"),
        ({"size": 0}, "size must be at least 1"),
        ({"channels": 4}, "channels must be 1 or 3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(nn.Identity(), **arguments)


def test_wrong_inputs() -> None:
    with pytest.raises(ValueError, match=r"images \[B, C, H, W\], and was given torch.float32 \[2, 3\]"):
        adapt(nn.Identity(), 8)(torch.rand(2, 3))
    with pytest.raises(ValueError, match="torch.uint8"):
        adapt(nn.Identity(), 8)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="images of 4 channels cannot be brought to 3"):
        adapt(nn.Identity(), channels=3)(torch.rand(2, 4, 8, 8))


def test_layers_are_under_model(quick_trainer: Callable[..., Trainer]) -> None:
    network = SmallCNN(4, 3)
    adapted = adapt(network, 16)
    assert Capture(adapted, ["model.stage*"]).layers == ["model.stage1", "model.stage2", "model.stage3"]
    module = FeatureDistillation(SmallCNN(2, 3), adapted, student_layer="stage3", teacher_layer="model.stage3")
    data = TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8) % 3)
    quick_trainer().fit(module, DataLoader(data, batch_size=4))


@pytest.mark.parametrize(
    "runtime",
    [TeacherRuntime("int8"), TeacherRuntime(fold_batch_norm=True), TeacherRuntime("bf16")],
    ids=["int8", "folded", "bf16"],
)
def test_every_runtime_gives_nearly_the_same(runtime: TeacherRuntime) -> None:
    teacher = FrozenTeacher(adapt(SmallCNN(4, 3, in_channels=3), 12, MEAN, STD, [0.5], [0.25], 3), runtime)
    teacher.capture_layers(["model.stage3"])
    x = torch.rand(4, 1, 8, 8)
    with teacher.capture.finding_overwrites():
        exact = teacher(x)
    teacher.prepare_runtime(lambda: [x])
    found = teacher(x)
    for ours, theirs in (
        (found.logits, exact.logits),
        (found.features["model.stage3"], exact.features["model.stage3"]),
    ):
        assert (ours.float() - theirs).norm() <= 0.06 * theirs.norm()


def test_its_numbers_are_part_of_its_state() -> None:
    state = adapt(nn.Linear(2, 2), mean=MEAN, std=STD).state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx(MEAN)
    assert set(state) == {"mean", "std", "model.weight", "model.bias"}


def test_a_mean_of_other_channels_is_refused() -> None:
    network = adapt(nn.Identity(), mean=[0.5] * 3, std=[0.2] * 3)
    with pytest.raises(ValueError, match="mean has 3 channels, and the images have 1 there"):
        network(torch.rand(2, 1, 4, 4))
    assert adapt(nn.Identity(), mean=[0.5] * 3, std=[0.2] * 3, channels=3)(torch.rand(2, 1, 4, 4)).shape == (2, 3, 4, 4)
