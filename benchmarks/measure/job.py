"""The reference job: what every row trains, on what, and for how many steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import v2

from lit_distill import load
from lit_distill.data import ImageFolder
from lit_distill.models import resnet8, resnet20, resnet56

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TEMPERATURE = 4.0
HARD, SOFT = 0.1, 0.9


@dataclass(frozen=True)
class Job:
    """Distillation on 32x32 images: ResNet-56 teaches ResNet-20, or ResNet-8 itself in a smoke test.

    An epoch is one round: ``lead_in`` steps that are not timed, in which loading workers start and fill their
    queue, ``steps`` timed ones, and ``tail`` more, so that workers are as busy at the end of the timed ones as
    at their start.

    Attributes:
        data: Folder with ``train/<class>/<image>``.
        weights: The teacher's weights; random where None.
        out: Folder for logs and recordings.
        smoke: Small networks, few steps.
        batch_size: Images a batch.
        lead_in: Steps before the timed ones.
        steps: Timed steps of a round.
        tail: Steps after them.
        rounds: Timed rounds of every variant.
        workers: Loading processes, of the variants that read files.
        views: Recorded views of each image.
        learning_rate: Of the student.
    """

    data: str
    weights: str | None
    out: str
    smoke: bool
    batch_size: int = 128
    lead_in: int = 6
    steps: int = 30
    tail: int = 4
    rounds: int = 5
    workers: int = 2
    views: int = 4
    learning_rate: float = 0.05

    @property
    def images(self) -> int:
        """Training images: one round of them."""
        return self.batch_size * (self.lead_in + self.steps + self.tail)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def teacher(self) -> nn.Module:
        """The teacher, in eval mode: trained, or the same random network every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = resnet8() if self.smoke else resnet56()
        return (load(model, self.weights) if self.weights else model).eval()

    def student(self) -> nn.Module:
        return resnet8() if self.smoke else resnet20()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)

    def module(self, in_memory: bool = False) -> ImageFolder:
        """The data as this library loads them."""
        return ImageFolder(
            self.data,
            batch_size=self.batch_size,
            num_workers=0 if in_memory else self.workers,
            train_size=self.images,
            augment=[v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()],
            in_memory=in_memory,
        )

    def dataset(self) -> Subset[tuple[torch.Tensor, int]]:
        """The data as one would write them by hand, and as the peer gets them."""
        transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(MEAN), list(STD)),
            ]
        )
        data = datasets.ImageFolder(f"{self.data}/train", transform)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        return Subset(data, order[: self.images].tolist())

    def loader(self) -> DataLoader[tuple[torch.Tensor, int]]:
        return DataLoader(self.dataset(), self.batch_size, shuffle=True, num_workers=self.workers)


def make_job(data: str | None, weights: str | None, out: Path, smoke: bool) -> Job:
    """The job of a size.

    Raises:
        FileNotFoundError: The images or the weights are not there.
    """
    if not smoke:
        if data is None or not (Path(data) / "train").is_dir():
            raise FileNotFoundError(f"--data must be a folder with train/<class>/<image>, not {data}.")
        if weights is None or not Path(weights).is_file():
            raise FileNotFoundError(f"--weights must be a file with ResNet-56 weights, not {weights}.")
        return Job(data, weights, str(out), smoke)
    small = {"batch_size": 8, "lead_in": 1, "steps": 2, "tail": 1, "rounds": 2, "views": 2}
    folder = data or str(synthetic_images(out / "images"))
    return Job(folder, None, str(out), smoke, **small)


def synthetic_images(folder: Path, classes: int = 10, each: int = 12) -> Path:
    """JPEG images of noise, as ``train/<class>/<image>``, where there is no real data."""
    from torchvision.transforms.functional import to_pil_image

    generator = torch.Generator().manual_seed(0)
    for label in range(classes):
        target = folder / "train" / f"class{label}"
        target.mkdir(parents=True, exist_ok=True)
        for index in range(each):
            pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
            to_pil_image(pixels).save(target / f"{index}.jpg", quality=90)
    return folder
