"""Makes a Trainer read checkpoints without running what is in them, and name the file that does not fit.

Lightning reads those from ``http`` with pickle, which runs code, and confuses two of the same name.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.migration.utils import migrate_checkpoint
from packaging.version import InvalidVersion, Version
from torch import Tensor
from torch.optim import Optimizer

from lit_distill.files.checkpoint_file import is_remote, opened, read_opened, short_name
from lit_distill.files.saving import WholeCheckpoints
from lit_distill.utils.names import first_line, listed
from lit_distill.utils.notices import warn
from lit_distill.utils.patches import Patches

_GUARDED = ("load_checkpoint", "load_model_state_dict", "load_optimizer_state_dict")
_REMEDY = "weights_only=False, or --weights_only=false on the command line"
_VERSION = "pytorch-lightning_version"
_SHOWN = 4
_LARGE = ("state_dict", "optimizer_states")  # of which migration changes no tensor
_ENTRIES: dict[str, Any] = {
    "optimizer_states": list,
    "lr_schedulers": list,
    "callbacks": Mapping,
    "hyper_parameters": Mapping,
    "hparams_type": (str, type),
    "hparams_name": str,
    "loops": Mapping,
}


class MisfitError(ValueError, RuntimeError):
    """Raised if a checkpoint's weights do not fit the module, where PyTorch raises a ``RuntimeError``."""


def guard(trainer: Trainer) -> None:
    """Make a Trainer read checkpoints safely until ``unguard``; call it in ``setup``, after which Lightning reads."""
    if _guard_of(trainer) is None:
        held = CheckpointGuard(trainer)
        for name in _GUARDED:
            held.patches.set(trainer.strategy, name, getattr(held, name))


def unguard(trainer: Trainer) -> None:
    """Undo ``guard``."""
    held = _guard_of(trainer)
    if held is not None:
        held.patches.restore()


def _guard_of(trainer: Trainer) -> CheckpointGuard | None:
    owner = getattr(vars(trainer.strategy).get("load_checkpoint"), "__self__", None)
    return owner if isinstance(owner, CheckpointGuard) else None


class CheckpointGuard:
    """Replaces the methods by which a Trainer's strategy reads checkpoints."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._originals = {name: getattr(trainer.strategy, name) for name in _GUARDED}
        self.patches = Patches()
        self._name = "the checkpoint"

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Any:
        """Read a checkpoint that a run can resume from; nothing in it is run unless ``weights_only`` is False."""
        self._name = short_name(checkpoint_path)
        original, trust = self._originals["load_checkpoint"], weights_only is False
        if _is_folder(checkpoint_path) or not _is_read_whole(self._trainer.strategy):
            options = {"weights_only": not trust} if "weights_only" in inspect.signature(original).parameters else {}
            return original(checkpoint_path, **options)
        with opened(checkpoint_path) as file:
            content = read_opened(file, self._name, trust, _REMEDY)
        _check_content(content, self._name, self._trainer)
        return content

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], *args: Any, **named: Any) -> None:
        """Load the module's weights; a ``MisfitError`` says that they do not fit."""
        try:
            self._originals["load_model_state_dict"](checkpoint, *args, **named)
        except (RuntimeError, AttributeError, TypeError) as error:
            kind = type(self._trainer.lightning_module).__name__
            raise MisfitError(
                f"{self._name} does not fit this {kind}, so the run cannot go on from it: {error}"
            ) from error

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimizers' states; a ``ValueError`` says that they do not fit."""
        try:
            _check_optimizers(checkpoint, self._trainer.strategy)
            self._originals["load_optimizer_state_dict"](checkpoint)
            for optimizer in self._trainer.optimizers:
                _check_settings(optimizer)
        except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise ValueError(
                f"the optimizers' states in {self._name} do not fit this run's optimizers, so it cannot go on from them "
                f"({first_line(error)}). Go on with the optimizers that it was made with; or start anew, without ckpt_path, "
                "from its weights: lit_distill.load(network, path)."
            ) from error


def _check_optimizers(checkpoint: Mapping[str, Any], strategy: Any) -> None:
    """Refuse another number of states than of optimizers: Lightning silently drops the rest."""
    if type(strategy).load_optimizer_state_dict.__qualname__ != "Strategy.load_optimizer_state_dict":
        return
    saved, mine = len(checkpoint["optimizer_states"]), len(strategy.optimizers)
    if saved != mine:
        raise ValueError(f"it holds {saved} of them, and this run has {mine} optimizer{'s' * (mine != 1)}")


def _check_settings(optimizer: Optimizer) -> None:
    """Refuse parameter groups that lack a setting of their optimizer, whose step would fail."""
    if not type(optimizer).__module__.startswith("torch.optim."):
        return  # others may keep defaults that their groups do not hold
    for group in optimizer.param_groups:
        for name in optimizer.defaults:
            if name not in group:
                raise KeyError(f"they have no {name!r}, which {type(optimizer).__name__} needs")


@contextmanager
def naming_file(name: str | Path | None) -> Iterator[None]:
    """Put a file's name before a ``ValueError`` that does not contain it."""
    try:
        yield
    except ValueError as error:
        known = short_name(name) if name else ""
        if known in str(error):
            raise
        raise ValueError(f"{known}: {error}") from error


def _is_folder(path: str | Path) -> bool:
    return not is_remote(path) and Path(str(path).removeprefix("file://")).is_dir()


def _is_read_whole(strategy: Any) -> bool:
    """Return True if a checkpoint is one file that Lightning reads by PyTorch, and no strategy or plug-in in its own way."""
    if type(strategy).load_checkpoint.__qualname__ != "Strategy.load_checkpoint":
        return False
    reader = strategy.checkpoint_io
    while isinstance(reader, WholeCheckpoints) or _reads(reader, "_WrappingCheckpointIO"):
        reader = reader.inner if isinstance(reader, WholeCheckpoints) else reader.checkpoint_io
    return _reads(reader, "TorchCheckpointIO")


def _reads(reader: Any, kind: str) -> bool:
    """Return True if an object reads checkpoints like a class of Lightning, of either of its packages."""
    return bool(type(reader).load_checkpoint.__qualname__ == f"{kind}.load_checkpoint")


def _check_content(content: Any, name: str, trainer: Trainer) -> None:
    fitting = trainer.state.fn is not None and trainer.state.fn.value == "fit"
    how = f"read its weights: lit_distill.load(network, {name!r})" + (", and fit without ckpt_path" if fitting else "")
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}, no checkpoint of a fit.")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{name} holds only weights, and is no checkpoint of a fit: {how}.")
    if not isinstance(content.get("state_dict"), Mapping) or _VERSION not in content:
        held = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise ValueError(f"{name} is no checkpoint of Lightning (it holds {held}): to use it, {how}.")
    problem = problem_of(content)
    if fitting and not problem and content.get("loops") is not None:
        problem = _unlike({"fit_loop": trainer.fit_loop.state_dict()}, content["loops"], "loops")
    if problem:
        raise ValueError(f"{name} is damaged: {problem}.")
    missing = [key for key in ("optimizer_states", "lr_schedulers") if content.get(key) is None]
    if fitting and missing and trainer.strategy.lightning_restore_optimizer:
        raise ValueError(
            f"{name} holds the weights of a fit without its optimizers' states (save_weights_only), so that a fit cannot go on "
            f"from it: {how}."
        )
    _warn_of_nan(content["state_dict"], name)


def problem_of(content: Mapping[str, Any]) -> str:
    """Return what in a checkpoint is not as Lightning writes it, in words; empty if nothing is."""
    try:
        Version(content[_VERSION])
    except (KeyError, InvalidVersion, TypeError):
        return f"its {_VERSION} is {content.get(_VERSION)!r:.50}"
    if not all(isinstance(key, str) for key in content["state_dict"]):
        return "the names in its state_dict are no text"
    for key, kind in _ENTRIES.items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            return f"its {key} is a {type(content[key]).__name__}"
    for key in ("optimizer_states", "lr_schedulers"):
        if not all(isinstance(state, Mapping) for state in content.get(key) or ()):
            return f"one of its {key} is no mapping"
    return _problem_of_age(content)


def _problem_of_age(content: Mapping[str, Any]) -> str:
    """Return why Lightning cannot migrate a checkpoint of an earlier version; empty if it can."""
    version = content[_VERSION]
    if Version(version) >= Version(lightning.__version__):
        return ""
    apart = {key: value if key in _LARGE else copy.deepcopy(value) for key, value in content.items()}
    try:
        migrate_checkpoint({**apart, "state_dict": dict(content["state_dict"])})
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        return f"it says that Lightning {version} wrote it, and its entries are not as that version's ({why})"
    return ""


def _unlike(mine: Any, theirs: Any, path: str) -> str:
    """Return where a nested value is of another kind than that of a new run, in words."""
    if isinstance(mine, Mapping):
        if not isinstance(theirs, Mapping):
            return f"its {path} is a {type(theirs).__name__}"
        return next(
            filter(None, (_unlike(mine[key], theirs[key], f"{path}.{key}") for key in mine if key in theirs)), ""
        )
    if isinstance(mine, (int, float)) and not (theirs is None or isinstance(theirs, (int, float))):
        return f"its {path} is a {type(theirs).__name__}"
    return ""


def _warn_of_nan(state: Mapping[str, Any], name: str) -> None:
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    broken = [key for key, value in tensors.items() if value.layout == torch.strided and bool(value.isnan().any())]
    if broken:
        warn(f"{name} holds NaN in {listed(broken, _SHOWN)}: the fit that made it had gone wrong.")
