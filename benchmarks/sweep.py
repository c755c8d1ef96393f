"""Full grids for ``budget.py``: every run of three students, five teachers, four methods, with its validation scores.

    python benchmarks/sweep.py digits --seeds 10 --out benchmarks/results/budget-digits.json
    python benchmarks/sweep.py fashion-mnist --seeds 6 --out benchmarks/results/budget-fashion-mnist.json

The runs are those of ``configs/compare/digits_budget.yaml`` and ``fashion_mnist.yaml``: their networks, criteria, weights,
optimizer and schedule, in a loop written by hand. All choices of a student and a seed are trained at once, stacked into one
network, on the same batches: the same sums as one by one, to rounding, in a fifth of the time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from measure.machine import describe_machine, in_words
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from lit_distill.compare.results import CONTROL
from lit_distill.criteria import DIST, Criterion, LogitMSE, SoftTarget
from lit_distill.data import Digits, FashionMNIST, ImageDataModule
from lit_distill.data.memory import MemoryDataset
from lit_distill.models import MLP, SmallCNN
from lit_distill.outputs import Outputs

Network = SmallCNN | MLP
METHODS: dict[
    str, tuple[float, Criterion, float]
] = {  # weight of the labels, criterion, its weight: as in configs/methods
    "kd": (0.1, SoftTarget(temperature=4), 0.9),
    "dist": (1.0, DIST(beta=1, gamma=1, tau=4), 2.0),
    "logit_mse": (0.1, LogitMSE(centre=True), 0.45),
    "standardized": (0.1, SoftTarget(temperature=2, standardize=True), 9.0),
}


@dataclass(frozen=True)
class Setting:
    """Networks and data.

    Attributes:
        epochs: Of a student.
        every: Epochs between two validations.
        data: The students' data.
        teacher_data: The teachers'.
        students: By name.
        teachers: By name, with their epochs.
    """

    epochs: int
    every: int
    data: Callable[[], ImageDataModule]
    teacher_data: Callable[[], ImageDataModule]
    students: dict[str, Callable[[], Network]]
    teachers: dict[str, tuple[Callable[[], Network], int]]


SETTINGS = {
    "digits": Setting(
        30,
        3,
        lambda: Digits(train_size=300, val_fraction=0.5, in_memory=True),
        lambda: Digits(val_fraction=0.5, in_memory=True),
        {"cnn4": lambda: SmallCNN(4), "cnn8": lambda: SmallCNN(8), "mlp32": lambda: MLP(64, (32,))},
        {
            "cnn8": (lambda: SmallCNN(8), 20),
            "cnn32": (lambda: SmallCNN(32), 20),
            "cnn64": (lambda: SmallCNN(64), 20),
            "mlp128": (lambda: MLP(64, (128,)), 40),
            "cnn32-short": (lambda: SmallCNN(32), 2),
        },
    ),
    "fashion-mnist": Setting(
        20,
        2,
        lambda: FashionMNIST(train_size=500, val_fraction=0.025, batch_size=25, augment=[], in_memory=True),
        lambda: FashionMNIST(train_size=6000, val_fraction=0.025, batch_size=50, augment=[], in_memory=True),
        {"mlp16": lambda: MLP(784, (16,)), "mlp64": lambda: MLP(784, (64,)), "mlp32x2": lambda: MLP(784, (32, 32))},
        {
            "mlp64": (lambda: MLP(784, (64,)), 10),
            "mlp256": (lambda: MLP(784, (256,)), 10),
            "mlp256-short": (lambda: MLP(784, (256,)), 1),
            "cnn8": (lambda: SmallCNN(8), 6),
            "cnn8-short": (lambda: SmallCNN(8), 1),
        },
    ),
}


class Stacked(nn.Module):
    """Copies of a network side by side: from images ``[B, C, H, W]`` to logits ``[copies, B, classes]``."""

    def __init__(self, network: Network, copies: int) -> None:
        super().__init__()
        self.copies = copies
        stages = [network.stage1, network.stage2, network.stage3] if isinstance(network, SmallCNN) else []
        self.stages = nn.ModuleList(self._stage(stage[0], number) for number, stage in enumerate(stages))
        linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        self.weights = nn.ParameterList(one.weight.detach().t()[None].repeat(copies, 1, 1) for one in linear)
        self.biases = nn.ParameterList(one.bias.detach()[None, None].repeat(copies, 1, 1) for one in linear)

    def _stage(self, given: nn.Module, number: int) -> nn.Sequential:
        assert isinstance(given, nn.Conv2d)
        groups = self.copies if number else 1  # the images are all copies' alike
        conv = nn.Conv2d(
            given.in_channels * groups, given.out_channels * self.copies, 3, padding=1, bias=False, groups=groups
        )
        conv.weight.data = given.weight.detach().repeat(self.copies, 1, 1, 1)
        return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        if self.stages:
            first, second, third = self.stages
            pooled = third(F.max_pool2d(second(first(images)), 2)).mean((2, 3))
            hidden: Tensor = pooled.view(len(images), self.copies, -1).transpose(0, 1)
        else:
            hidden = images.flatten(1)[None].expand(self.copies, -1, -1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, F.relu(hidden) if number else hidden, weight)
        return hidden


def arrays(data: ImageDataModule, part: str) -> tuple[Tensor, Tensor]:
    data.setup("test" if part == "test_data" else "fit")
    held = getattr(data, part)
    assert isinstance(held, MemoryDataset)
    return held.get_seeded(range(len(held)), [0] * len(held))


def fit(
    network: nn.Module,
    count: int,
    batch: int,
    seed: int,
    epochs: int,
    lr: float,
    loss: Callable[[Tensor], Tensor],
) -> Iterator[int]:
    """Train on batches of indices, and yield each epoch, from 1 on."""
    loader: DataLoader[int] = DataLoader(range(count), batch, shuffle=True)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        seed_everything(1000 * seed + epoch, verbose=False)
        network.train()
        for index in loader:
            optimizer.zero_grad()
            loss(index).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        scheduler.step()
        yield epoch + 1


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    network.eval()
    parts = [network(images[start : start + 500]) for start in range(0, len(images), 500)]
    return torch.cat(parts, dim=parts[0].dim() - 2)


def train_teacher(setting: Setting, name: str) -> Network:
    make, epochs = setting.teachers[name]
    seed_everything(0, verbose=False)
    network, data = make(), setting.teacher_data()
    images, labels = arrays(data, "train_data")

    def loss(index: Tensor) -> Tensor:
        return F.cross_entropy(network(images[index]), labels[index])

    for _ in fit(network, len(labels), data.batch_size, 0, epochs, 0.003, loss):
        pass
    return network


def choices_of(setting: Setting) -> list[tuple[str, str]]:
    """All of a student, as (teacher, method), the control last."""
    return [(teacher, method) for method in METHODS for teacher in setting.teachers] + [("", CONTROL)]


def total_loss(setting: Setting, logits: Tensor, taught: dict[str, Tensor], labels: Tensor) -> Tensor:
    """The sum of all choices' losses, of which none knows of the others."""
    total = F.cross_entropy(logits[-1], labels)
    for own, (teacher, method) in zip(logits, choices_of(setting)[:-1], strict=False):
        hard, criterion, weight = METHODS[method]
        total = total + hard * F.cross_entropy(own, labels)
        total = total + weight * criterion(Outputs(own), Outputs(taught[teacher]), labels)
    return total


def train(
    setting: Setting, student: str, seed: int, taught: dict[str, Tensor]
) -> tuple[list[float], list[list[float]]]:
    """Train a student's choices with a seed; return their test scores, and their validation scores along the training."""
    data = setting.data()
    (images, labels), (val, val_labels) = arrays(data, "train_data"), arrays(data, "val_data")
    test, test_labels = arrays(data, "test_data")
    seed_everything(seed, verbose=False)
    network = Stacked(setting.students[student](), len(choices_of(setting)))

    def loss(index: Tensor) -> Tensor:
        part = {name: logits[index] for name, logits in taught.items()}
        return total_loss(setting, network(images[index]), part, labels[index])

    curves = [
        (logits_of(network, val).argmax(2) == val_labels).double().mean(1)
        for epoch in fit(network, len(labels), data.batch_size, seed, setting.epochs, 0.01, loss)
        if epoch % setting.every == 0
    ]
    scores = (logits_of(network, test).argmax(2) == test_labels).double().mean(1)
    return scores.tolist(), torch.stack(curves, 1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    setting, start = SETTINGS[options.setting], time.process_time()
    teachers = {name: train_teacher(setting, name) for name in setting.teachers}
    images, _ = arrays(setting.data(), "train_data")
    test, labels = arrays(setting.data(), "test_data")
    taught = {name: logits_of(network, images) for name, network in teachers.items()}
    accuracies = {
        name: float((logits_of(network, test).argmax(1) == labels).double().mean())
        for name, network in teachers.items()
    }
    runs = []
    for seed in range(options.seeds):
        for student in setting.students:
            scores, curves = train(setting, student, seed, taught)
            for (teacher, method), score, curve in zip(choices_of(setting), scores, curves, strict=True):
                runs.append([student, teacher, method, seed, round(score, 5), [round(one, 5) for one in curve]])
            print(f"seed {seed}, {student}: best {max(scores):.2%}, no teacher {scores[-1]:.2%}", flush=True)
    head = {"epochs": setting.epochs, "every": setting.every, "teachers": accuracies}
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in sorted(runs))
    options.out.write_text(f'{json.dumps(head)[:-1]}, "runs": [\n{lines}\n]}}\n')
    print(f"{time.process_time() - start:.0f} CPU seconds. {in_words(describe_machine())}")


if __name__ == "__main__":
    main()
