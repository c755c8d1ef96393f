"""Makes the networks and the data that a config stands for, with the weights of a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from torch import nn

from lit_distill.cli.fit import DistillationCLI
from lit_distill.compare.training import deployed
from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.files.checkpoint_file import read_checkpoint, short_name
from lit_distill.files.resuming import naming_file
from lit_distill.models import load
from lit_distill.modules import DistillationModule, MultiTaskDistillation
from lit_distill.modules.hyperparameters import warn_of_changed_settings
from lit_distill.teachers import Teacher
from lit_distill.utils.names import nearest

# One device, nothing written, and each network in the precision of its weights.
_TRAINER = {
    "logger": False,
    "callbacks": None,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "32-true",
    "fast_dev_run": False,
    "profiler": None,
    "barebones": False,
}


class ReportSetup(DistillationCLI):
    """Makes what a config stands for, to be evaluated.

    Raises:
        ValueError: The config has no teacher, no data, or several tasks.
    """

    saves_config = False

    def __init__(self, words: list[str]) -> None:
        super().__init__(words, run=False)
        module = self.module
        if isinstance(module, MultiTaskDistillation):
            raise ValueError(
                "the config is of several tasks, and a report is of one: report each task's head in Python."
            )
        if module.distiller.teacher is None:
            raise ValueError(
                f"the config's {type(module).__name__} has no teacher, and so there is nothing to report on."
            )
        if self.datamodule is None:
            raise ValueError("the config has no data: add a data section, whose test data are evaluated.")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Make a Trainer for one device that writes nothing."""
        return super().instantiate_trainer(**{**options, **_TRAINER})

    @property
    def module(self) -> DistillationModule:
        """The distillation."""
        assert isinstance(self.model, DistillationModule)
        return self.model

    @property
    def teacher(self) -> Teacher:
        """The config's teacher."""
        assert self.module.distiller.teacher is not None
        return self.module.distiller.teacher

    def every_value(self) -> dict[str, Any]:
        """Return the config with every value, as plain types."""
        values: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return values

    def networks(self, checkpoint: Path) -> tuple[nn.Module, nn.Module]:
        """Return the student with a checkpoint's weights, and one with those that the config gives it.

        For SimKD the first is the network that is used in the end, with the teacher's classifier.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not of this config.
        """
        fresh = copy.deepcopy(self.module.student)
        fill(self.module, checkpoint)
        used = deployed(self.module)
        return (self.module.student if used is self.module else used.student), fresh


def fill(module: DistillationModule, checkpoint: Path) -> None:
    """Load a checkpoint of a fit, or a file of the student's weights, into a distillation.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not of this distillation.
    """
    fill_network(module.student, checkpoint, "ckpt_path", "the config's student")
    content = read_checkpoint(checkpoint)
    if not (isinstance(content, Mapping) and ENTRY_KEY in content):
        return  # weights alone
    with naming_file(str(checkpoint)):
        module.distiller.read_checkpoint(content)
    warn_of_changed_settings(module.hparams, content, module.distiller.checkpoint_entry, fitting=False)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        name = short_name(checkpoint)
        raise ValueError(f"ckpt_path: {name} is a checkpoint of another config: {error}") from error


def fill_network(network: nn.Module, checkpoint: Path, option: str, whose: str) -> None:
    """Load a checkpoint's weights into a network.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: They do not fit.
    """
    if not checkpoint.is_file():
        known = [str(one) for one in checkpoint.parent.glob("*.ckpt")] if checkpoint.parent.is_dir() else []
        raise FileNotFoundError(
            f"{option}: there is no checkpoint {checkpoint} (looked in {Path.cwd()}).{nearest(str(checkpoint), known)}"
        )
    try:
        load(network, checkpoint)
    except ValueError as error:
        raise ValueError(f"{option} is no checkpoint of {whose}: {error}") from error
