"""What a module's checkpoint remembers of how it was made: plain types alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import nn

from lit_distill.checkpoint import class_name
from lit_distill.criteria import Criterion


def record_hyperparameters(module: LightningModule, plain: Mapping[str, Any]) -> None:
    """Save how a module was made.

    Made from a config, the config itself is saved, so that ``load_from_checkpoint`` rebuilds the module with
    no argument. Made in Python, the plain values are saved and the networks only named: Lightning would
    otherwise deep-copy them and write them into every checkpoint.

    Args:
        module: The module being made.
        plain: Values of plain types, by the names of the constructor's arguments where they are such.
    """
    if _given_hyperparameters.get() is not None:
        module.save_hyperparameters()
    else:
        module.save_hyperparameters(dict(plain))


def describe_criteria(criteria: Mapping[str, Criterion]) -> dict[str, dict[str, Any]]:
    """Each criterion's class and its plain public settings."""
    described = {}
    for name, criterion in criteria.items():
        settings = {k: v for k, v in vars(criterion).items() if _is_setting(k, v)}
        described[name] = {"class": class_name(criterion), **settings}
    return described


def _is_setting(name: str, value: Any) -> bool:
    return not name.startswith("_") and name not in vars(nn.Module()) and isinstance(value, (int, float, str, bool))
