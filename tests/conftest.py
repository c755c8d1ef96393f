"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.promises.counting import pytest_terminal_summary  # noqa: F401  # a hook

# The tests' networks are tiny: more threads would only wait for each other, the more so beside other work.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

QuickTrainer = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Give every test the same random state, whatever ran before it."""
    for name in (
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
    ):  # Lightning seeds later runs of the process by them, and their workers
        os.environ.pop(name, None)
    torch.manual_seed(0)
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")}
    yield
    for name, level in levels.items():  # the command line's verbs quieten them for the process
        logging.getLogger(name).setLevel(level)
    torch.set_default_dtype(torch.float32)
    if "torch._dynamo" in sys.modules:  # compiling with the library turns it off for the process
        torch._dynamo.config.skip_nnmodule_hook_guards = True


@pytest.fixture
def quick_trainer(tmp_path: Path) -> QuickTrainer:
    """Make a Trainer that is silent and writes nothing, unless asked otherwise."""

    def make(kind: type[Trainer] = Trainer, **arguments: Any) -> Trainer:
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
        }
        return kind(**{**settings, **arguments})

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data: ``LIT_DISTILL_DATA``, or ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("LIT_DISTILL_DATA", default))
    if not folder.is_dir():
        reason = f"no real data at {folder}; set LIT_DISTILL_DATA to the folder that holds cifar10-jpeg.tar.xz"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}. CI must not skip this.")
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def cifar_images(shared_data: Path) -> Path:
    """CIFAR-10 as ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, unpacked once outside the repository."""
    cache = Path(tempfile.gettempdir()) / "lit-distill-cifar10"
    if not cache.is_dir():
        # Unpacked beside and renamed, so that an interrupted or a second run never sees half of it.
        unpacked = Path(tempfile.mkdtemp(prefix="lit-distill-cifar10-", dir=cache.parent))
        subprocess.run(["tar", "xJf", str(shared_data / "cifar10-jpeg.tar.xz"), "-C", str(unpacked)], check=True)
        try:
            unpacked.rename(cache)
        except OSError:  # another run was faster
            shutil.rmtree(unpacked)
    return cache
