"""The hyperparameters that a module saves in its checkpoints, of plain types only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion
from lit_distill.engine.checkpoint import CheckpointEntry
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.settings_record import class_name, differences, warn_of_changes
from lit_distill.utils.plain import as_plain

_INSTANTIATOR = "_instantiator"  # Lightning's mark of hyperparameters that are a config


def record_hyperparameters(module: LightningModule, plain: Mapping[str, Any]) -> None:
    """Save the hyperparameters of a module.

    For a module made from a config, save the config, so that ``load_from_checkpoint`` needs no argument. Otherwise save the
    plain values, and only the names of the networks: Lightning would deep-copy networks and write them into every checkpoint.
    """
    if _given_hyperparameters.get() is not None:
        module.save_hyperparameters()
    else:
        module.save_hyperparameters(as_plain(dict(plain)))


def warn_of_changed_settings(
    hparams: Mapping[str, Any], checkpoint: Mapping[str, Any], entry: CheckpointEntry, fitting: bool
) -> None:
    """Warn if a run and the checkpoint that it continues from have different settings.

    Two modules made from configs are compared by their configs, others by our entry in the checkpoint, in fits only.
    """
    saved = checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY)
    configs = isinstance(saved, Mapping) and _INSTANTIATOR in saved and _INSTANTIATOR in hparams
    if configs:
        _print_differences(saved or {}, hparams)
    if fitting:
        warn_of_changes(entry.changes(checkpoint, settings=not configs))


@rank_zero_only
def _print_differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for line in differences(saved, asked):
        print(f"{line} (the config's value is used)", file=sys.stderr)


def describe_module(distiller: Distiller, task: Task, fast: bool) -> dict[str, Any]:
    """Return the hyperparameters of a distillation."""
    criteria, teacher = distiller.criteria, distiller.teacher
    return {
        "task": task,
        "fast": bool(fast),
        "weights": criteria.given_weights,
        "student_class": class_name(distiller.student),
        "teacher_class": class_name(teacher.model) if teacher else "none",
        "criteria_settings": _describe_criteria(criteria.criteria()),
        "schedule_settings": {key: str(schedule) for key, schedule in criteria.schedules.items()},
        "balance_class": class_name(criteria.balance) if criteria.balance is not None else "none",
    }


def _describe_criteria(criteria: Mapping[str, Criterion]) -> dict[str, dict[str, Any]]:
    described = {}
    for name, criterion in criteria.items():
        settings = {k: v for k, v in vars(criterion).items() if _is_setting(k, v)}
        described[name] = {"class": class_name(criterion), **settings}
    return described


def _is_setting(name: str, value: Any) -> bool:
    return not name.startswith("_") and name not in vars(nn.Module()) and isinstance(value, (int, float, str, bool))
