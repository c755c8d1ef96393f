"""Whether soft targets that leave it to the library standardize logits, in checkpoints and from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lit_distill.criteria import SoftTarget
from lit_distill.criteria.layers import AUTO
from lit_distill.engine.weighted import WeightedCriteria


def describe_standardization(criteria: WeightedCriteria) -> dict[str, bool]:
    """Return whether each soft target standardizes logits, by name, where that is decided."""
    return {name: bool(one.standardize) for name, one in _soft_targets(criteria).items() if one.standardize != AUTO}


def adopt_standardization(entry: Mapping[str, Any], criteria: WeightedCriteria) -> bool:
    """Have soft targets that were given ``auto`` do as a checkpoint's; return True if any of them did otherwise before."""
    asking = {name: one for name, one in _soft_targets(criteria).items() if one.standardize_was_auto}
    saved = entry.get("standardized")
    if saved is None:  # made before ``auto`` was there: its settings say it
        settings = (entry.get("settings") or {}).get("criteria", {})
        saved = {name: settings.get(name, {}).get("standardize", False) for name in asking}
    changed = [name for name, one in asking.items() if name in saved and one.standardize != saved[name]]
    for name in changed:
        asking[name].standardize = bool(saved[name])
        kind = "standardized" if saved[name] else "plain"
        rank_zero_info(f"Criterion {name} compares {kind} logits, as in the checkpoint.")
    return bool(changed)


def _soft_targets(criteria: WeightedCriteria) -> dict[str, SoftTarget]:
    return {name: one for name, one in criteria.criteria().items() if isinstance(one, SoftTarget)}
