"""What a config stands for, made without a fit: for the verbs that look at its networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lit_distill.cli.config_files import fit_words
from lit_distill.cli.fit import DistillationCLI


class ConfigSetup(DistillationCLI):
    """Makes a config's module and data, and a Trainer that leaves nothing behind.

    Args:
        configs: Files, the later over the earlier.
        further: Words of options that win over them.
    """

    saves_config = False

    def __init__(self, configs: Sequence[str], further: Sequence[str]) -> None:
        super().__init__(fit_words(configs, further), run=False)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def setup_for_checkpoint(configs: Sequence[str], further: Sequence[str], checkpoint: Path) -> ConfigSetup:
    """Return the set-up of a checkpoint's config, whose DataModule knows its Trainer; the checkpoint is not read.

    Raises:
        FileNotFoundError: There is no such checkpoint.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint} (looked in {Path.cwd()}).")
    setup = ConfigSetup(configs, further)
    if setup.datamodule is not None:
        setup.datamodule.trainer = setup.trainer
    return setup
