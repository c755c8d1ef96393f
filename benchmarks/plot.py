"""Draws the accuracies of comparisons: python benchmarks/plot.py OUT.png RESULTS.json ..."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(out: str, files: list[str]) -> None:
    figure, axes = plt.subplots(1, len(files), figsize=(5 * len(files), 3.4), squeeze=False)
    for axis, file in zip(axes[0], files, strict=True):
        rows = [{"score": row.get("accuracy/student"), **row} for row in json.loads(Path(file).read_text())]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        for place, method in enumerate(methods):
            values = [100 * row["score"] for row in rows if row["method"] == method]
            color = "0.55" if place == 0 else f"C{place - 1}"
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            axis.bar(place, statistics.fmean(values), yerr=spread, color=color, width=0.65, capsize=4, alpha=0.85)
            axis.plot([place] * len(values), values, "k.", markersize=5)
        everything = [100 * row["score"] for row in rows]
        margin = max(everything) - min(everything)
        axis.set_ylim(min(everything) - 0.4 * margin, max(everything) + 0.2 * margin)
        axis.set_xticks(range(len(methods)), methods)
        axis.set_ylabel("student's test accuracy, %")
        axis.set_title(f"{Path(file).stem}, {len({row['seed'] for row in rows})} seeds")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
