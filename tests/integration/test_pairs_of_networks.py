"""Networks that were made for other purposes train together with nothing but the two."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import FeatureDistillation
from tests.capture.expert_stages import TIMM
from tests.capture.networks import HUGGING_FACE
from tests.conftest import QuickTrainer

_NAMES = sorted(TIMM)
_OTHERS = random.Random(0).sample(_NAMES, len(_NAMES))
_DRAW = random.Random(1)
PAIRS = [(student, _DRAW.choice([name for name in _NAMES if name != student])) for student in _OTHERS[:30]]

MIXED = [
    ("torchvision:resnet18", "hf:segformer"),
    ("torchvision:mobilenet_v3_small", "hf:convnext"),
    ("torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1"),
    ("torchvision:regnet_y_400mf", "torchvision:swin_t"),
    ("hf:resnet", "torchvision:efficientnet_b0"),
    ("hf:mobilenet_v2", "hf:segformer"),
    ("hf:distilbert", "hf:bert"),
    ("hf:gpt2", "hf:albert"),
    ("hf:bert", "hf:gpt2"),
    ("hf:vit", "hf:swin"),
]


def made(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    if library == "hf":
        return HUGGING_FACE[model]()
    return getattr(pytest.importorskip("torchvision").models, model)(num_classes=2)  # type: ignore[no-any-return]


def timm_network(name: str) -> nn.Module:
    options: dict[str, Any] = {"img_size": 224, "window_size": 7} if name.startswith("swinv2") else {}
    return pytest.importorskip("timm").create_model(name, num_classes=2, **options)  # type: ignore[no-any-return]


def trained(student: nn.Module, teacher: nn.Module, inputs: torch.Tensor, fit: Any) -> None:
    """Train for two steps; every pair must have a projector or equal shapes, and the student must change."""
    module = FeatureDistillation(student, teacher)
    before = [parameter.detach().clone() for parameter in student.parameters()]
    labels = torch.randint(0, 2, (len(inputs),))
    data = DataLoader(TensorDataset(inputs, labels), batch_size=2)
    fit(max_steps=2).fit(module, data)
    assert module.criteria["hint"].pairs
    assert torch.isfinite(torch.stack([parameter.sum() for parameter in module.parameters()])).all()
    changed = [not torch.equal(one, now) for one, now in zip(before, student.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_any_two_networks_of_timm(student: str, teacher: str, quick_trainer: QuickTrainer) -> None:
    trained(timm_network(student), timm_network(teacher), torch.randn(4, 3, 224, 224), quick_trainer)


def _is_text(name: str) -> bool:
    return name.rpartition(":")[2] in ("distilbert", "bert", "albert", "gpt2")


@pytest.mark.parametrize(
    ("student", "teacher"),
    [pytest.param(*pair, marks=[] if "hf" in pair[0] and "hf" in pair[1] else pytest.mark.slow) for pair in MIXED],
)
def test_any_two_networks_of_hugging_face_and_torchvision(
    student: str, teacher: str, quick_trainer: QuickTrainer
) -> None:
    size = 32 if "hf:vit" in (student, teacher) else 64
    inputs = torch.randint(1, 100, (4, 8)) if _is_text(student) else torch.randn(4, 3, size, size)
    trained(made(student), made(teacher), inputs, quick_trainer)
