"""Freezes the ranges and BatchNorm statistics of a student in quantisation-aware training, late in its fit."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_distill.engine.fit_length import fit_length
from lit_distill.models.quantisation_aware import QuantisationAware
from lit_distill.utils.arguments import check_number


class FreezeQuantisation(Callback):
    """Keeps the ranges of activations and the statistics of BatchNorm as they are, from a share of the fit on.

    The last steps then train the weights for the very ranges that are evaluated (Krishnamoorthi 2018, section 3.3).

    Args:
        after: The share of the fit's steps after which they stay, in [0, 1].

    Raises:
        ValueError: The share is out of range; in ``fit``: nothing is in quantisation-aware training, or the fit has no end.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FreezeQuantisation(after=0.5)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, after: float = 0.67) -> None:
        self.after = check_number("after", after, least=0, most=1)
        self._step = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _students(pl_module):
            raise ValueError(
                "FreezeQuantisation finds no network in quantisation-aware training; make the student with "
                "lit_distill.compress.quantise, or leave the callback out."
            )
        end = fit_length(trainer, "step")
        if end == float("inf"):
            raise ValueError(
                "FreezeQuantisation freezes after a share of the fit, and this fit has no end: set max_epochs or max_steps."
            )
        self._step = self.after * end

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        frozen = trainer.global_step >= self._step
        for one in _students(pl_module):
            if one.frozen != frozen:
                one.freeze(frozen)


def _students(pl_module: LightningModule) -> list[QuantisationAware]:
    return [one for one in pl_module.modules() if isinstance(one, QuantisationAware)]
