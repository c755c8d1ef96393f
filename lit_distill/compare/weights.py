"""The weights of criteria: kept as they were logged in training, and fixed at multiples of those that were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

Logged = dict[str, tuple[float, float]]  # each criterion's first and last weight above 0
_LOGGED = "train/weight/"
_HARD = "HardTarget"


class WeightWatch(Callback):
    """Keeps the first and the last weight above 0 that a training logs of each criterion."""

    def __init__(self) -> None:
        self.seen: Logged = {}
        self._waiting = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not (self._waiting or trainer.is_last_batch):
            return
        logged = {
            name.removeprefix(_LOGGED): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(_LOGGED)
        }
        for name, weight in logged.items():
            if weight > 0:
                self.seen[name] = (self.seen.get(name, (weight,))[0], weight)
        self._waiting = not logged.keys() <= self.seen.keys()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": {name: list(pair) for name, pair in self.seen.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = {name: (float(first), float(last)) for name, (first, last) in state_dict["seen"].items()}


def reweighted(content: Mapping[str, Any], scale: float | None, found: Mapping[str, float] | None) -> dict[str, Any]:
    """Return a config without weights, so that all are found in training, or with multiples of those that were found.

    Args:
        content: The config.
        scale: Fixes the labels' weight as it was found, and the others at so many times theirs; None leaves them out.
        found: The weights that were found; 1 for each if None, as before anything is trained.

    Raises:
        ValueError: A multiple is asked for, and a weight was not found.
    """
    model = content.get("model", {})
    inner = model.get("init_args", model)
    changed = dict(inner)
    criteria = inner.get("criteria")
    if isinstance(criteria, Mapping):
        scales = {} if scale is None else {name: 1.0 if _is_hard(one) else scale for name, one in criteria.items()}
        changed["weights"] = {name: times * _found(name, found) for name, times in scales.items()}
    changed["schedules"] = {k: v for k, v in (inner.get("schedules") or {}).items() if not k.endswith(".weight")}
    return {**content, "model": {**model, "init_args": changed} if "init_args" in model else changed}


def _found(name: str, found: Mapping[str, float] | None) -> float:
    if found is None:
        return 1.0
    if name not in found:
        raise ValueError(
            f"no weight of {name!r} was found that could be multiplied; found were: {', '.join(found) or 'none'}."
        )
    return found[name]


def _is_hard(criterion: Any) -> bool:
    path = criterion.get("class_path") if isinstance(criterion, Mapping) else criterion
    return isinstance(path, str) and path.rpartition(".")[2] == _HARD
