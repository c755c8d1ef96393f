"""Draw what every method reaches untuned, beside no teacher and plain distillation.

python docs/images/untuned.py docs/images/untuned.png benchmarks/results/untuned-*.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BASELINE, PLAIN = "no teacher", "KD"
NO_CLASSIFIER = ("queue_kl",)  # trains an encoder only
TITLES = {
    "digits": "Digits, 100 labels: CNN to small CNN",
    "cifar10": "CIFAR-10: ResNet-56 to ResNet-20",
    "vowels": "Spoken vowels, 54 labels: GRU to small GRU",
}
LEFT = -6.0  # a weight that fits another pair can cost far more: an arrow shows that it does

Accuracies = dict[str, dict[int, float]]


def read(path: Path, weights: str) -> Accuracies:
    """Return accuracies in percent by method and seed, with one kind of weights."""
    found: Accuracies = {}
    for row in json.loads(path.read_text()):
        if row["weights"] == weights and row["method"] not in NO_CLASSIFIER:
            found.setdefault(row["method"], {})[row["seed"]] = 100 * row["accuracy"]
    return found


def gap(one: dict[int, float], other: dict[int, float]) -> tuple[float, float]:
    """Return the mean of the differences by seed, and its standard error."""
    values = [one[seed] - other[seed] for seed in one if seed in other]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def panel(axis: Axes, path: Path, places: dict[str, int]) -> None:
    """Draw one pair: dots for weights that are found, crosses for those of the configs."""
    config, found = read(path, "config"), read(path, "found")
    seeds = {seed for values in found.values() for seed in values}
    config = {method: {s: v for s, v in values.items() if s in seeds} for method, values in config.items()}
    config = {method: values for method, values in config.items() if values}
    control = config[BASELINE]
    axis.axvline(0, color="0.3", linewidth=1)
    axis.axvline(gap(config[PLAIN], control)[0], color="C1", linewidth=1.5, linestyle="--")
    for method, place in places.items():
        if method in config:
            value, _ = gap(config[method], control)
            if value >= LEFT:
                axis.plot(value, place, "x", color="0.6", markersize=4)
            else:
                axis.plot(LEFT + 0.15, place, "<", color="0.6", markersize=4, clip_on=False)
                axis.text(LEFT + 0.5, place, f"{value:.0f}", color="0.45", fontsize=6.5, va="center")
        if method in found:
            value, error = gap(found[method], control)
            colour = "C0" if value >= 0 else "C3"
            axis.errorbar(max(value, LEFT), place, xerr=error, fmt="o", color=colour, markersize=4.5, elinewidth=1)
            if value < LEFT:
                axis.text(LEFT + 0.5, place, f"{value:.0f}", color=colour, fontsize=6.5, va="center")
    counts = {len(values) for values in found.values()}
    several = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    axis.set_title(f"{TITLES[pair_of(path)]}, {several} seed{'s' if max(counts) > 1 else ''}", fontsize=9)
    axis.set_xlabel("points of test accuracy above no teacher")
    axis.set_xlim(left=LEFT)
    axis.grid(axis="y", color="0.93", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)


def pair_of(path: Path) -> str:
    """Return the name of a file's pair."""
    return path.stem.removeprefix("untuned-").split("-")[0]


def main(target: Path, sources: list[Path]) -> None:
    """Draw a panel for each pair, with the methods in one order, the best on top."""
    gaps: dict[str, list[float]] = {}
    for path in sources:
        control = read(path, "config")[BASELINE]
        for method, values in read(path, "found").items():
            gaps.setdefault(method, []).append(gap(values, control)[0])
    ordered = sorted(gaps, key=lambda method: statistics.median(gaps[method]))
    places = {method: place for place, method in enumerate(ordered)}
    size = (2.0 + 3.6 * len(sources), 0.2 * len(ordered) + 1.5)
    figure, axes = plt.subplots(1, len(sources), figsize=size, sharey=True, squeeze=False)
    for axis, path in zip(axes[0], sources, strict=True):
        panel(axis, path, places)
    axes[0][0].set_yticks(range(len(ordered)), ordered, fontsize=8)
    axes[0][0].margins(y=0.01)
    marks: list[Any] = [
        plt.Line2D(
            [], [], marker="o", color="C0", linestyle="", markersize=4.5, label="untuned: weights found, standard error"
        ),
        plt.Line2D([], [], marker="x", color="0.6", linestyle="", markersize=4, label="weights of the papers"),
        plt.Line2D([], [], color="0.3", linewidth=1, label="no teacher"),
        plt.Line2D([], [], color="C1", linestyle="--", label="KD (T = 4, 0.1 and 0.9)"),
    ]
    figure.legend(handles=marks, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(target, dpi=110, facecolor="white")  # readable on a dark page too


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
