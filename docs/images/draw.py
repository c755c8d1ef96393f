"""Draw the gallery's charts from the logs of four fits.

for name in teacher baseline combined scheduled; do lit-distill fit --config configs/digits/$name.yaml; done
python docs/images/draw.py runs/digits docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Curve = tuple[list[int], list[float]]


def read(run: Path) -> dict[str, Curve]:
    """Return the scalars of a run's newest log, by tag: steps and values."""
    folder = max(run.glob("lightning_logs/version_*"), key=lambda found: int(found.name.split("_")[1]))
    events = EventAccumulator(str(folder)).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([e.step for e in found], [e.value for e in found]) for tag, found in scalars.items()}


def axes(count: int, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many charts next to each other."""
    figure, found = plt.subplots(1, count, figsize=(max(7.0, 4.6 * count), height), squeeze=False)
    for axis in found[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("optimizer step")
    return figure, list(found[0])


def save(figure: Figure, path: Path) -> None:
    """Write a figure and close it."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curves(runs: Path, folder: Path) -> None:
    """Draw student, teacher and baseline on the same axes."""
    combined, baseline = read(runs / "combined"), read(runs / "baseline")
    figure, found = axes(2)
    for axis, name in zip(found, ("accuracy", "cross_entropy"), strict=True):
        axis.plot(*combined[f"val/{name}/teacher"], color="0.6", linestyle="--", label="teacher")
        axis.plot(*baseline[f"val/{name}/student"], color="C0", label="student, labels only")
        axis.plot(*combined[f"val/{name}/student"], color="C3", label="student, distilled")
        axis.set_ylabel(f"validation {name.replace('_', ' ')}")
    found[0].legend(loc="lower right")
    save(figure, folder / "curves.png")


def terms(runs: Path, folder: Path) -> None:
    """Draw how much each weighted criterion contributes to the loss."""
    logged = read(runs / "combined")
    names = [tag.rsplit("/", 1)[1] for tag in logged if tag.startswith("train/weighted/")]
    steps = logged[f"train/weighted/{names[0]}"][0]
    figure, (axis,) = axes(1)
    bottom = [0.0] * len(steps)
    for name in names:
        values = logged[f"train/weighted/{name}"][1]
        axis.bar(steps, values, bottom=bottom, width=steps[1] - steps[0], label=name)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    axis.set_ylabel("weight · value")
    axis.legend()
    save(figure, folder / "terms.png")


def schedules(runs: Path, folder: Path) -> None:
    """Draw the weight and the temperature that change in the scheduled run."""
    logged = read(runs / "scheduled")
    tags = ["train/weight/hint", "train/temperature/soft"]
    figure, found = axes(len(tags), 2.6)
    for axis, tag in zip(found, tags, strict=True):
        axis.plot(*logged[tag], color="C2")
        axis.set_ylabel(tag.removeprefix("train/"))
    save(figure, folder / "schedules.png")


if __name__ == "__main__":
    for draw in (curves, terms, schedules):
        draw(Path(sys.argv[1]), Path(sys.argv[2]))
