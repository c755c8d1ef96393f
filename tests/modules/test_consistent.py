"""Consistent teaching: both networks see the very same pixels, augmented and mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from lit_distill import FrozenTeacher, LogitDistillation, SoftTarget, TeacherRuntime
from lit_distill.data import Digits
from lit_distill.models import SmallCNN


class Watching(nn.Module):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallCNN(4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.inner(x)


@pytest.mark.parametrize(
    "mix", [v2.MixUp(num_classes=10, alpha=1.0), v2.CutMix(num_classes=10)], ids=["mixup", "cutmix"]
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_teacher_is_given_the_students_tensor(quick_trainer: Any, mix: nn.Module, in_memory: bool) -> None:
    augment = (
        [v2.RandomAffine(20, (0.2, 0.2)), v2.RandomHorizontalFlip()] if not in_memory else [v2.RandomHorizontalFlip()]
    )
    data = Digits(batch_size=16, train_size=64, augment=augment, mix=mix, in_memory=in_memory)
    student, teacher = Watching(), Watching()
    module = LogitDistillation(student, teacher, criteria={"soft": SoftTarget(1.0)}, weights={"soft": 1.0})
    quick_trainer(limit_val_batches=0, max_epochs=2).fit(module, data)
    steps = list(zip(student.seen[-8:], teacher.seen[-8:], strict=True))
    assert all(s is t for s, t in steps)
    assert len({s.numpy().tobytes() for s, _ in steps}) == 8, "each step sees other pixels"


def test_a_teacher_in_its_own_precision_sees_the_same_pixels(quick_trainer: Any) -> None:
    data = Digits(batch_size=16, train_size=32, mix=v2.MixUp(num_classes=10))
    student, network = Watching(), SmallCNN(4)
    teacher = FrozenTeacher(network, TeacherRuntime("bf16"))
    asked: list[Tensor] = []
    original = teacher.prefetch
    teacher.prefetch = lambda inputs, mask=None: (asked.append(inputs), original(inputs, mask))[1]  # type: ignore[method-assign]
    quick_trainer(limit_val_batches=0).fit(LogitDistillation(student, teacher), data)
    assert all(torch.equal(s, t) for s, t in zip(student.seen[-2:], asked[-2:], strict=True))
