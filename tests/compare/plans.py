"""Plans for the tests: small enough to train in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from lit_distill.models import SmallCNN

LAYERS = {"layer1": "stage1", "layer2": "stage2", "layer3": "stage3", "linear": "classifier"}


def network(width: int) -> dict[str, Any]:
    """A network as a config writes it."""
    return {"class_path": "SmallCNN", "init_args": {"width": width}}


def teacher(folder: Path, width: int = 4, seed: int = 0) -> dict[str, Any]:
    """A teacher with a checkpoint in the folder; its weights are random."""
    torch.manual_seed(seed)
    checkpoint = folder / f"teacher-{width}-{seed}.pt"
    torch.save(SmallCNN(width).state_dict(), checkpoint)
    return {"network": network(width), "checkpoint": str(checkpoint)}


def content(folder: Path, **changes: Any) -> dict[str, Any]:
    """The content of a plan; a change to None takes the entry out."""
    plan = {
        "folder": str(folder / "out"),
        "data": {"class_path": "Digits", "init_args": {"train_size": 40}},
        "students": {"small": network(2)},
        "teachers": {"big": teacher(folder)},
        "methods": ["kd"],
        "layers": LAYERS,
        "seeds": 1,
        "epochs": 2,
        "trainer": {"accelerator": "cpu"},
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.01}},
    }
    return {key: value for key, value in (plan | changes).items() if value is not None}


def write(folder: Path, **changes: Any) -> Path:
    """Write a plan, and return its path."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content(folder, **changes)))
    return path
