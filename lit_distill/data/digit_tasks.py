"""The handwritten digits with two tasks: which digit, and whether it is odd."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lit_distill.data.base import Sample
from lit_distill.data.digits import Digits


class DigitTasks(Digits):
    """``Digits`` with the labels of two tasks: ``digit`` (ten classes) and ``parity`` (0 is even, 1 is odd).

    A batch is ``(images, {"digit": [B], "parity": [B]})``.

    Args:
        batch_size: As in ``ImageDataModule``.
        num_workers: As in ``ImageDataModule``.
        val_fraction: As in ``ImageDataModule``.
        train_size: As in ``ImageDataModule``.
        split_seed: As in ``ImageDataModule``.
        augment: As in ``ImageDataModule``.
    """

    def __init__(
        self,
        batch_size: int = 32,
        num_workers: int | None = 0,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        split_seed: int = 0,
        augment: list[nn.Module] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, train_size, split_seed, augment)

    def open_training(self) -> tuple[Dataset[Sample], Dataset[Sample]]:
        training, validation = super().open_training()
        return _WithParity(training), _WithParity(validation)

    def open_test(self) -> Dataset[Sample]:
        return _WithParity(super().open_test())


class _WithParity(Dataset[Sample]):
    """Gives each digit the labels of both tasks."""

    def __init__(self, digits: Any) -> None:
        self.digits = digits

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, label = self.digits[index]
        return image, {"digit": label, "parity": label % 2}
