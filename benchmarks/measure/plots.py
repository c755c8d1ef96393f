"""The figures as PNG files; matplotlib is optional."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from measure.growth import Growth
from measure.rounds import Result


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def plot_rounds(results: dict[str, Result], baseline: str, path: Path) -> None:
    """Each variant's rounds as points, by the baseline's in the same round, and their median as a bar."""
    from matplotlib.figure import Figure

    base = results[baseline]
    shown = {name: result for name, result in results.items() if len(result.seconds) == len(base.seconds)}
    figure = Figure(figsize=(7, 0.45 * len(shown) + 1))
    axis = figure.subplots()
    for place, (name, result) in enumerate(shown.items()):
        ratios = [theirs / own for own, theirs in zip(result.seconds, base.seconds, strict=True)]
        axis.barh(place, result.ratio(base), color="C0" if name.startswith("lit-distill") else "0.6", alpha=0.85)
        axis.plot(ratios, [place] * len(ratios), "k.", markersize=4)
    axis.set_yticks(range(len(shown)), list(shown))
    axis.invert_yaxis()
    axis.axvline(1, color="k", linewidth=0.8)
    axis.set_xlabel(f"images a second, by those of {baseline}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def plot_growth(found: list[Growth], path: Path) -> None:
    """Images a second above, peak memory below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(found), 5))
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, growth in enumerate(found):
        settings = [point.setting for point in growth.points]
        rates, peaks = panels[0][column], panels[1][column]
        rates.plot(settings, [point.images_per_second for point in growth.points], "o-")
        peaks.plot(settings, [point.peak / 2**20 for point in growth.points], "o-", color="C1")
        rates.set_ylabel("images/s")
        peaks.set_ylabel("peak, MiB")
        peaks.set_xlabel(growth.axis)
        for panel in (rates, peaks):
            if settings and max(settings) > 50:
                panel.set_xscale("log")
                panel.set_xticks(settings, [f"{setting:,}" for setting in settings], fontsize=8)
                panel.minorticks_off()
            panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
            panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
