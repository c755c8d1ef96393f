"""Keeps the import paths of modules that have moved valid for one release, with a ``DeprecationWarning``."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "lit_distill"

_MOVED = {
    "arguments": "utils.arguments",
    "callbacks.finetuning": "callbacks.unfreeze",
    "callbacks.stripping": "callbacks.distill.strip",
    "calls": "capture.call",
    "checkpoint": "engine.checkpoint",
    "checkpoint_file": "files.checkpoint_file",
    "criteria.chunked": "criteria.ops.chunked",
    "criteria.labelled": "criteria.ops.labelled",
    "criteria.normalisation": "criteria.ops.features",
    "criteria.phi_s": "criteria.ops.phi_s",
    "criteria.processes": "utils.distributed",
    "criteria.softmax_kl": "criteria.ops.divergence",
    "criteria.spatial": "criteria.ops.features",
    "criteria.standardization": "criteria.ops.standardization",
    "criteria.statistics": "criteria.ops.statistics",
    "distiller": "engine.distiller",
    "label_rows": "batch.label_rows",
    "labels": "batch.labels",
    "layout": "batch.layout",
    "listening": "capture.calls",
    "metrics": "engine.metrics",
    "mixture": "criteria.ops.divergence",
    "modules.acceleration": "engine.acceleration",
    "modules.evaluator": "engine.evaluator",
    "notices": "utils.notices",
    "optim.task_gradient": "engine.task_gradient",
    "positions": "batch.positions",
    "projectors": "criteria.projectors",
    "references": "utils.names",
    "rng": "utils.rng",
    "tensorboard": "engine.charts",
    "untouched": "batch.untouched",
    "weighted": "engine.weighted",
}


class _Alias(Loader):
    """Stands a module at its old path in for the one at its new path."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> None:
        warnings.warn(f"{spec.name} has moved to {self.new}; import it from there.", DeprecationWarning, stacklevel=2)

    def exec_module(self, module: ModuleType) -> None:
        found = vars(importlib.import_module(self.new))
        vars(module).update({name: value for name, value in found.items() if not name.startswith("__")})


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _MOVED.get(fullname.removeprefix(f"{_PACKAGE}."))
        return ModuleSpec(fullname, _Alias(f"{_PACKAGE}.{new}")) if new is not None else None


def keep_old_paths() -> None:
    """Have imports of the old paths find the modules at their new ones."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
