"""Train a teacher, a student without it, and the same student distilled, on handwritten digits."""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_distill.cli.words import Parser, whole_number
from lit_distill.data import Digits
from lit_distill.models import SmallCNN
from lit_distill.modules import DistillationModule, LogitDistillation, SupervisedModule
from lit_distill.utils.tensors import count_parameters

_TEACHER_EPOCHS = 15
_LABELS = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Distil on scikit-learn's handwritten digits and print the outcome."""
    parser = Parser("demo", __doc__)
    parser.add_argument("--seeds", type=whole_number, default=3, help="students trained each way (default: 3)")
    parser.add_argument("--epochs", type=whole_number, default=60, help="epochs of a student (default: 60)")
    parser.add_argument("--logs", default="runs/demo", help="TensorBoard folder (default: runs/demo)")
    options = parser.parse_args(arguments)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    # Networks this small gain nothing from threads, which wait for each other if something else runs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _show(options)
    finally:
        torch.set_num_threads(threads)


def _show(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    print(f"Training a teacher on all {_training_images():,} training digits …", flush=True)
    teacher, teacher_accuracy = _train_teacher(options.logs)
    print(f"Training {options.seeds} students on {_LABELS} labelled digits, without and with the teacher …", flush=True)
    alone, distilled = [], []
    for seed in range(options.seeds):
        alone.append(_train_student(None, seed, options.epochs, options.logs))
        distilled.append(_train_student(teacher, seed, options.epochs, options.logs))
    size, small = count_parameters(teacher), count_parameters(_student())
    rows = [
        ("teacher", size, f"{teacher_accuracy:.1%}"),
        ("student, labels only", small, _spread(alone)),
        ("student, distilled", small, _spread(distilled)),
    ]
    print(f"\n{'':24}{'parameters':>12}   test accuracy")
    for name, parameters, accuracy in rows:
        print(f"{name:24}{parameters:>12,}   {accuracy}")
    print(f"\nThe curves: tensorboard --logdir {options.logs}  (took {time.perf_counter() - start:.0f} s)")


def _student() -> SmallCNN:
    return SmallCNN(width=8)


def _training_images() -> int:
    data = Digits()
    data.setup("fit")
    return len(data.train_dataloader().dataset)  # type: ignore[arg-type]


def _train_teacher(logs: str) -> tuple[nn.Module, float]:
    seed_everything(0, verbose=False)
    schedule = partial(CosineAnnealingLR, T_max=_TEACHER_EPOCHS)
    module = SupervisedModule(SmallCNN(width=32), optimizer=partial(torch.optim.AdamW, lr=3e-3), lr_scheduler=schedule)
    return module.student, _fit_and_test(module, Digits(), _TEACHER_EPOCHS, logs, "teacher")


def _train_student(teacher: nn.Module | None, seed: int, epochs: int, logs: str) -> float:
    seed_everything(seed, verbose=False)
    optimizer, schedule = partial(torch.optim.AdamW, lr=0.01), partial(CosineAnnealingLR, T_max=epochs)
    module: DistillationModule
    if teacher is None:
        module = SupervisedModule(_student(), optimizer=optimizer, lr_scheduler=schedule)
    else:
        module = LogitDistillation(_student(), teacher, optimizer=optimizer, lr_scheduler=schedule)
    name = f"{'alone' if teacher is None else 'distilled'}-{seed}"
    return _fit_and_test(module, Digits(train_size=_LABELS), epochs, logs, name)


def _fit_and_test(module: DistillationModule, data: Digits, epochs: int, logs: str, name: str) -> float:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=min(5, epochs),
        logger=TensorBoardLogger(logs, name=name),
        log_every_n_steps=4,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return float(trainer.test(module, data, verbose=False)[0]["test/accuracy/student"])


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.1%}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
