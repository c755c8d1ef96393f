"""Does distillation help? The same student, data order and schedule with and without a teacher, over seeds.

    python benchmarks/accuracy.py digits
    python benchmarks/accuracy.py cifar10 --data DATA --weights resnet56-4bfd9763.th
    python benchmarks/accuracy.py digits --fast
    python benchmarks/accuracy.py digits --methods logit "recorded float32" "recorded int8" "recorded top 5"

Each run is written to ``--out`` as soon as it ends, and is not repeated: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from measure.machine import describe_machine, in_words
from measure.report import markdown
from measure.seeds import Rows, mean, over_seeds, percent, quietly, spread
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchvision.transforms import v2

from lit_distill import (
    CombinedDistillation,
    DistillationModule,
    FeatureDistillation,
    LogitDistillation,
    RecordedTeacher,
    SupervisedModule,
    load,
)
from lit_distill.data import Digits, ImageFolder
from lit_distill.models import SmallCNN, resnet8, resnet56

METHODS = ("no teacher", "logit", "feature", "combined")
RECORDED: dict[str, dict[str, Any]] = {
    "recorded float32": {"logits": "float32"},
    "recorded float16": {"logits": "float16"},
    "recorded int8": {"logits": "int8"},
    "recorded top 5": {"logits": "top_k", "top_k": 5},
}


@dataclass(frozen=True)
class Setting:
    """One teacher-student pair on one data set.

    Attributes:
        name: Of the setting.
        epochs: Of the student's training.
        seeds: How many, from 0 on.
        student: Makes an untrained student.
        teacher: Makes or loads the trained teacher, given a folder to keep it in.
        data: Makes the student's data.
        optimizer: Makes the optimizer.
        layers: What the hint matches, in both networks.
        views: To record of each sample.
        fast: Train with ``fast=True``.
    """

    name: str
    epochs: int
    seeds: int
    student: Callable[[], nn.Module]
    teacher: Callable[[Path], nn.Module]
    data: Callable[[], LightningDataModule]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    layers: str
    views: int
    fast: bool


def make_module(method: str, setting: Setting, student: nn.Module, teacher: nn.Module) -> DistillationModule:
    layers = (setting.layers, setting.layers)
    settings: dict[str, Any] = {
        "optimizer": setting.optimizer,
        "lr_scheduler": partial(CosineAnnealingLR, T_max=setting.epochs),
        "fast": setting.fast,
    }
    if method == "no teacher":
        return SupervisedModule(student, **settings)
    if method == "feature":
        return FeatureDistillation(student, teacher, *layers, **settings)
    if method == "combined":
        return CombinedDistillation(student, teacher, *layers, **settings)
    if method in RECORDED:
        return LogitDistillation(student, RecordedTeacher(teacher, views=setting.views, **RECORDED[method]), **settings)
    return LogitDistillation(student, teacher, **settings)


def quiet_trainer(epochs: int, folder: Path, **options: Any) -> Trainer:
    """A trainer that validates once, at the end, and writes no checkpoint."""
    return Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def run(method: str, seed: int, setting: Setting, teacher: nn.Module, folder: Path) -> dict[str, Any]:
    """Train one student and test it."""
    seed_everything(seed)
    student = setting.student()
    module = make_module(method, setting, student, teacher)
    data = setting.data()
    trainer = quiet_trainer(setting.epochs, folder)
    start = time.perf_counter()
    trainer.fit(module, data)
    seconds = time.perf_counter() - start
    figures = trainer.test(module, data, verbose=False)[0]
    kept = {key.removeprefix("test/"): value for key, value in figures.items() if key.startswith("test/")}
    return {"seconds": round(seconds, 1), **kept}


def train_digits_teacher(folder: Path) -> nn.Module:
    model = SmallCNN(width=32)
    saved = folder / "digits-teacher.pt"
    if saved.is_file():
        return load(model, saved)
    seed_everything(0)
    schedule = partial(CosineAnnealingLR, T_max=20)
    module = SupervisedModule(model, optimizer=partial(torch.optim.AdamW, lr=3e-3), lr_scheduler=schedule)
    quiet_trainer(20, folder).fit(module, Digits())
    torch.save(model.state_dict(), saved)
    return model


def fine_tune_cifar_teacher(folder: Path, data: str, weights: str) -> nn.Module:
    """Adapt borrowed ResNet-56 weights to these images: one epoch on all training images."""
    saved = folder / "cifar10-teacher.pt"
    if saved.is_file():
        return load(resnet56(), saved)
    seed_everything(0)
    model = load(resnet56(), weights)
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images = cifar_images(data, train_size=None)
    trainer = quiet_trainer(1, folder)
    before = trainer.test(SupervisedModule(model), images, verbose=False)[0]["test/accuracy/student"]
    start = time.perf_counter()
    schedule = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1)
    trainer.fit(SupervisedModule(model, optimizer=optimizer, lr_scheduler=schedule), images)
    seconds = time.perf_counter() - start
    after = trainer.test(SupervisedModule(model), images, verbose=False)[0]["test/accuracy/student"]
    print(
        f"Teacher: {before:.2%} as borrowed, {after:.2%} after one epoch of fine-tuning ({seconds:.0f} s).", flush=True
    )
    torch.save(model.state_dict(), saved)
    return model


def cifar_images(data: str, train_size: int | None, in_memory: bool = False) -> ImageFolder:
    augment: list[nn.Module] = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    workers = None if in_memory else 1
    return ImageFolder(
        data, batch_size=64, num_workers=workers, train_size=train_size, augment=augment, in_memory=in_memory
    )


def digits(options: argparse.Namespace) -> Setting:
    return Setting(
        name="digits",
        epochs=options.epochs or 60,
        seeds=options.seeds or 5,
        student=partial(SmallCNN, width=8),
        teacher=train_digits_teacher,
        data=partial(Digits, train_size=options.train_size or 100),
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        layers="stage3",
        views=1,
        fast=options.fast,
    )


def cifar10(options: argparse.Namespace) -> Setting:
    return Setting(
        name="cifar10",
        epochs=options.epochs or 10,
        seeds=options.seeds or 3,
        student=resnet8,
        teacher=partial(fine_tune_cifar_teacher, data=options.data, weights=options.weights),
        data=partial(cifar_images, options.data, options.train_size or 5000, in_memory=options.fast),
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
        layers="layer*",
        views=options.epochs or 10,
        fast=options.fast,
    )


def table(results: Rows) -> str:
    """Mean and standard deviation over seeds, and the paired difference to training without a teacher."""
    rows = []
    for method in (*METHODS, *RECORDED):
        found = results.of(method)
        if not found:
            continue
        gaps = [100 * gap for gap in results.paired(method, METHODS[0], "accuracy/student")]
        gap = spread(gaps, sign=True) if gaps and method != METHODS[0] else "-"
        agreement = mean(percent(found, "agreement"), 1)
        seconds = mean([row["seconds"] for row in found])
        rows.append([method, spread(percent(found, "accuracy/student")), gap, agreement, seconds])
    return markdown(["method", "student accuracy", "difference, paired", "agreement with teacher", "seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=["digits", "cifar10"])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--train-size", type=int)
    parser.add_argument(
        "--data", default="data/cifar10", help="CIFAR-10 as train/<class> and test/<class> image folders"
    )
    parser.add_argument("--weights", default="teachers/resnet56-4bfd9763.th", help="third-party ResNet-56 weights")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *RECORDED], default=METHODS)
    parser.add_argument("--fast", action="store_true", help="train with fast=True, and with the images in memory")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    options = parser.parse_args()
    quietly()
    options.out.mkdir(parents=True, exist_ok=True)
    setting = digits(options) if options.setting == "digits" else cifar10(options)
    start = time.perf_counter()
    teacher = setting.teacher(options.out)
    results_file = options.out / f"{setting.name}{'-fast' if setting.fast else ''}.json"
    results = Rows(results_file)
    failed = over_seeds(
        results,
        options.methods,
        setting.seeds,
        lambda method, seed: run(method, seed, setting, teacher, options.out),
        "accuracy/student",
    )
    reference = next((row["accuracy/teacher"] for row in results.rows if "accuracy/teacher" in row), float("nan"))
    seconds = f"{time.perf_counter() - start:.0f} s in this call"
    print(f"\n{table(results)}\n\nTeacher: {reference:.2%}. {seconds}. {in_words(describe_machine())}")
    if failed:
        raise SystemExit("\n".join(f"{name} failed: {error}" for name, error in failed.items()))


if __name__ == "__main__":
    main()
