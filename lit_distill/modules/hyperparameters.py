"""What a module's checkpoint remembers of how it was made: plain types alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from lit_distill.criteria import Criterion
from lit_distill.engine.checkpoint import CheckpointNote
from lit_distill.engine.remembered import class_name, differences, say_changes
from lit_distill.utils.plain import as_plain

_INSTANTIATOR = "_instantiator"  # Lightning's mark of hyper-parameters that are a config


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
        module.save_hyperparameters(as_plain(dict(plain)))


def tell_changes(
    hparams: Mapping[str, Any], checkpoint: Mapping[str, Any], note: CheckpointNote, fitting: bool
) -> None:
    """Say where a run is set otherwise than when the checkpoint that it goes on from was made.

    Two that were made from configs are compared by these; others by what the note keeps.

    Args:
        hparams: The module's.
        checkpoint: The checkpoint.
        note: The module's.
        fitting: The run is a fit; for others the config alone counts.
    """
    saved = checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY)
    configs = isinstance(saved, Mapping) and _INSTANTIATOR in saved and _INSTANTIATOR in hparams
    if configs:
        _print_differences(saved or {}, hparams)
    if fitting:
        say_changes(note.changes_of_teacher(checkpoint) if configs else note.changes(checkpoint))


@rank_zero_only
def _print_differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for line in differences(saved, asked):
        print(f"{line} (the config's value is used)", file=sys.stderr)


def describe_criteria(criteria: Mapping[str, Criterion]) -> dict[str, dict[str, Any]]:
    """Each criterion's class and its plain public settings."""
    described = {}
    for name, criterion in criteria.items():
        settings = {k: v for k, v in vars(criterion).items() if _is_setting(k, v)}
        described[name] = {"class": class_name(criterion), **settings}
    return described


def _is_setting(name: str, value: Any) -> bool:
    return not name.startswith("_") and name not in vars(nn.Module()) and isinstance(value, (int, float, str, bool))
