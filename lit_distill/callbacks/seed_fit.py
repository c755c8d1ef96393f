"""Gives fits of different networks the same batches."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lit_distill.utils.arguments import check_whole


class SeedFit(Callback):
    """Seeds the random generators when a fit starts, so that what its networks drew in being made changes no batch.

    A student that is trained with a teacher and one without then see the same images in the same order. A fit that goes on from
    a checkpoint goes on with the checkpoint's random state.

    Args:
        seed: At least 0.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SeedFit(0)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, seed: int) -> None:
        self.seed = check_whole("seed", seed, least=0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_everything(self.seed, verbose=False)  # the module restores a checkpoint's state after this
