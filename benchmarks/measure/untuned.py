"""The methods' rows with weights from the configs, found in training, and swept: read, paired, and summed up."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASELINE, PLAIN = "no teacher", "KD"
CONFIG, FOUND = "config", "found"
NO_CLASSIFIER = ("queue_kl",)  # trains an encoder: its classifier stays as it was drawn


class Untuned:
    """Accuracies in percent by method, weights and seed.

    Args:
        rows: Each with ``method``, ``weights`` (``config``, ``found`` or a scale), ``seed``, ``accuracy`` and ``logged``.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = list(rows)
        self._accuracies: dict[tuple[str, str], dict[int, float]] = {}
        for row in rows:
            self._accuracies.setdefault((row["method"], row["weights"]), {})[row["seed"]] = 100 * row["accuracy"]

    def of(self, method: str, weights: str = CONFIG) -> dict[int, float]:
        """Accuracies by seed."""
        return self._accuracies.get((method, weights), {})

    def methods(self) -> list[str]:
        """Those whose weights were found."""
        names = dict.fromkeys(row["method"] for row in self.rows if row["weights"] == FOUND)
        return [name for name in names if name not in NO_CLASSIFIER]

    def scales(self) -> list[str]:
        return sorted({row["weights"] for row in self.rows} - {CONFIG, FOUND}, key=float)

    def logged(self, method: str) -> dict[str, dict[str, float]]:
        """Each criterion's found weight, ``first`` and ``last``, on average over seeds, but the labels'."""
        seen = [row["logged"] for row in self.rows if row["method"] == method and row["weights"] == FOUND]
        names = dict.fromkeys(name for one in seen for name in one if name != "hard")
        return {
            name: {key: statistics.fmean(one[name][key] for one in seen if name in one) for key in ("first", "last")}
            for name in names
        }


@dataclass(frozen=True)
class Sweep:
    """The best of a method's fixed weights.

    Attributes:
        scale: Of the best mean, as a multiple of the weight that was found.
        best: Its accuracies by seed. The largest of several noisy means is too high an estimate.
        picked: The accuracies by seed of the scale that is best on the other seeds, which is not.
    """

    scale: str
    best: dict[int, float]
    picked: dict[int, float]


def swept(results: Untuned, method: str) -> Sweep | None:
    """The sweep of a method, over the seeds that all scales have; None without one."""
    candidates = {scale: results.of(method, scale) for scale in results.scales()}
    candidates = {scale: found for scale, found in candidates.items() if found}
    if not candidates:
        return None
    seeds = sorted(set.intersection(*(set(found) for found in candidates.values())))
    if not seeds:
        return None
    scale = _best(candidates, seeds)
    picked = {}
    for seed in seeds:
        others = [other for other in seeds if other != seed]
        if others:
            picked[seed] = candidates[_best(candidates, others)][seed]
    return Sweep(scale, {seed: candidates[scale][seed] for seed in seeds}, picked)


def _best(candidates: dict[str, dict[int, float]], seeds: Sequence[int]) -> str:
    return max(candidates, key=lambda scale: statistics.fmean(candidates[scale][seed] for seed in seeds))


def gaps(one: dict[int, float], other: dict[int, float]) -> list[float]:
    """Differences seed by seed."""
    return [one[seed] - other[seed] for seed in one if seed in other]


def pooled_deviation(samples: Iterable[Sequence[float]]) -> float:
    """The standard deviation within samples of equal spread; NaN if none has two values."""
    squares, freedom = 0.0, 0
    for values in samples:
        mean = statistics.fmean(values) if values else 0.0
        squares += sum((value - mean) ** 2 for value in values)
        freedom += max(0, len(values) - 1)
    return math.sqrt(squares / freedom) if freedom else math.nan


def read(path: Path) -> Untuned:
    """Read a comparison's results, a file that ``write`` wrote, or raw rows in files named ``<path>-found.json`` and alike."""
    rows = []
    if path.suffix == ".json":
        rows = json.loads(path.read_text())
        return Untuned([_compared(row) for row in rows] if "student" in rows[0] else rows)
    for file in sorted(path.parent.glob(f"{path.name}*.json")):
        kind = re.fullmatch(r"(|-found|-x[\d.e+-]+)", file.stem.removeprefix(path.name))
        if kind is None:  # another length of training
            continue
        weights = kind[1].removeprefix("-").removeprefix("x") or CONFIG
        rows += [_short(row, weights) for row in json.loads(file.read_text())]
    if not rows:
        raise SystemExit(f"no results {path.name}*.json in {path.parent}.")
    unique = {(row["method"], row["weights"], row["seed"]): row for row in rows}
    return Untuned(list(unique.values()))


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a comparison's results, whose methods are named after their weights: ``at, auto`` or ``at, x 0.3``."""
    method, _, kind = row["method"].rpartition(", ")
    weights = {"auto": FOUND, "configured": CONFIG}.get(kind, kind.removeprefix("x "))
    name = BASELINE if row["method"] == BASELINE else PLAIN if (method, weights) == ("kd", CONFIG) else method
    logged = {name: {"first": first, "last": last} for name, (first, last) in row["weights"].items()}
    return _short({**row, "method": name, "accuracy": row["score"], "weights": logged}, weights)


def _short(row: dict[str, Any], weights: str) -> dict[str, Any]:
    logged = {
        name: {key: float(f"{one[key]:.4g}") for key in ("first", "last")}
        for name, one in row.get("weights", {}).items()
    }
    kept = {
        "method": row["method"],
        "weights": CONFIG if row["method"] in (BASELINE, PLAIN) else weights,
        "seed": row["seed"],
        "accuracy": round(row["accuracy"], 5),
        "seconds": round(row["seconds"], 1),
    }
    return kept | {"logged": logged}


def write(results: Untuned, path: Path) -> None:
    """Write the rows, one in a line."""
    lines = ",\n".join(json.dumps(row) for row in results.rows)
    path.write_text(f"[\n{lines}\n]\n")
