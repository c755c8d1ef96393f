"""What the marks of a recording cost beside reading the samples: ``python -m benchmarks.marks``."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import v2

from lit_distill.data.memory import MemoryDataset
from lit_distill.recording.replay import ReplayData

_ROUNDS = 60


class Files(Dataset[Any]):
    """Encoded images, decoded and augmented as for training."""

    def __init__(self, side: int, kind: str, transform: Any) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, kind)
        self.content, self.transform = content.getvalue(), transform

    def __len__(self) -> int:
        return 1_000

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(io.BytesIO(self.content)).convert("RGB")), index % 10


def _floats() -> list[Any]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]


def _sources() -> dict[str, Any]:
    crop = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *_floats()])
    resized = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *_floats()])
    pixels = torch.randint(0, 255, (1_000, 3, 32, 32), dtype=torch.uint8)
    return {
        "CIFAR size, PNG, crop and flip": Files(32, "PNG", crop),
        "ImageNet size, JPEG of 500 x 500, crop to 224": Files(500, "JPEG", resized),
        "CIFAR size, in memory": MemoryDataset(
            pixels, torch.arange(1_000), [v2.RandomCrop(32, padding=4)], lambda x: x / 255
        ),
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print microseconds of processor time a sample, with marks and without, in turns."""
    torch.set_num_threads(1)
    for name, source in _sources().items():
        data = ReplayData(source, default_collate, 0)
        keys = [(0, index) for index in range(16)]
        data.marked(keys)
        pairs = [
            (_seconds(lambda: data.marked(keys, marks=False)), _seconds(lambda: data.marked(keys)))  # noqa: B023
            for _ in range(_ROUNDS)
        ]
        plain, marked = (min(column) * 1e6 / len(keys) for column in zip(*pairs, strict=True))
        print(f"{name}: {plain:,.0f} µs a sample, {marked - plain:+,.0f} µs with marks ({marked / plain - 1:+.1%})")


if __name__ == "__main__":
    main()
