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
        batch_size: Images per batch and process.
        num_workers: Processes that load; 0 loads in the main one. If None, one per available core, up to 8.
        val_fraction: Share of the training data held out for validation, in (0, 1).
        train_size: Number of training images to keep, evenly from each class; all if None.
        split_seed: Seed of the split and of ``train_size``, separate from the seed of the training.
        augment: Transforms of the training images only, before they become floats.
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
