"""The weights of a method's criteria: as its config has them, found in training, or fixed multiples of those found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

CONFIG, FOUND = "config", "found"
_LOGGED = "train/weight/"


def weights_mode(text: str) -> str | float:
    """Read ``config``, ``found`` or a number above 0."""
    if text in (CONFIG, FOUND):
        return text
    scale = float(text)
    if scale <= 0:
        raise ValueError(text)
    return scale


def reweighted(settings: dict[str, Any], mode: str | float, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A method's settings with other weights, and without what changes them in training.

    Args:
        settings: What the method's config says.
        mode: ``config`` changes nothing; ``found`` leaves out every weight; a number fixes that of the labels at the mean, over
            ``found``, of the weight that was found, as it was at the end, and the others at so many times theirs.
        found: The rows of the method's runs with weights found in training.
    """
    if mode == CONFIG:
        return settings
    inner = settings["model"].get("init_args", settings["model"])
    criteria = inner["criteria"]
    weights: dict[str, float] = {}
    if mode != FOUND:
        if not found:
            raise ValueError("no run has found this method's weights; run it with --weights found first.")
        for name in criteria:
            lasts = [row["weights"][name]["last"] for row in found]
            weights[name] = statistics.fmean(lasts) * (1.0 if name == "hard" else float(mode))
    inner["weights"] = weights
    schedules = inner.get("schedules", {})
    inner["schedules"] = {key: plan for key, plan in schedules.items() if not key.endswith(".weight")}
    return settings


class WatchWeights(Callback):
    """Keeps each criterion's first, last, smallest and largest logged weight above 0."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for key, logged in trainer.callback_metrics.items():
            weight = float(logged)
            if not key.startswith(_LOGGED) or weight == 0:
                continue
            row = self.seen.setdefault(key.removeprefix(_LOGGED), {"first": weight, "least": weight, "most": weight})
            row |= {"last": weight, "least": min(row["least"], weight), "most": max(row["most"], weight)}
