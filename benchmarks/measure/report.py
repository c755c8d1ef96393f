"""Markdown tables and a chart of what was measured."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure.job import Job
from measure.process import Failure
from measure.rounds import Result


@dataclass(frozen=True)
class Target:
    """What a ratio has to reach.

    Attributes:
        row: The variant.
        baseline: Beside which.
        least: The ratio.
    """

    row: str
    baseline: str
    least: float


TARGETS = (
    Target("lit-distill", "hand-written", 0.97),
    Target("lit-distill, fast", "hand-written", 2.5),
    Target("lit-distill, recorded", "hand-written, no teacher", 0.95),
    Target("lit-distill, recorded, fast", "hand-written", 4.0),
)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def with_error(values: Sequence[float]) -> str:
    """Mean and its standard error, signed."""
    mean = f"{statistics.fmean(values):+.2f}"
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else mean


def rounds_table(results: dict[str, Result], baselines: Sequence[str]) -> str:
    """Images a second and the ratios to the baselines."""
    rows = []
    for name, result in results.items():
        if not result.usable():
            rows.append([name, result.failure.error if result.failure else "no rounds", *[""] * (len(baselines) + 3)])
            continue
        spread = f"{result.images / max(result.seconds):.0f} to {result.images / min(result.seconds):.0f}"
        ratios = [_ratio(result, results.get(baseline)) for baseline in baselines]
        times = [f"{result.cpu_milliseconds:.2f}", f"{result.prepare_seconds:.0f}"]
        rows.append([name, f"{result.images_per_second:.0f}", spread, *ratios, *times])
    compared = [f"of {baseline}" for baseline in baselines]
    return markdown(["variant", "images/s", "over rounds", *compared, "CPU ms an image", "s to prepare"], rows)


def _ratio(result: Result, baseline: Result | None) -> str:
    comparable = baseline is not None and baseline.usable() and len(baseline.seconds) == len(result.seconds)
    return f"{result.ratio(baseline):.2f}" if comparable and baseline is not None else "-"


def targets_table(results: dict[str, Result]) -> str:
    rows = []
    for target in TARGETS:
        result, baseline = results.get(target.row), results.get(target.baseline)
        if result is None or baseline is None or not (result.usable() and baseline.usable()):
            continue
        ratio = result.ratio(baseline)
        verdict = "reached" if ratio >= target.least else "missed"
        rows.append([target.row, target.baseline, f"{ratio:.3f}", f"{target.least}", verdict])
    return markdown(["variant", "beside", "ratio", "target", ""], rows) if rows else ""


def failures_text(failures: dict[str, Failure]) -> str:
    """The tracebacks of what failed."""
    return "\n\n".join(f"### {name}\n\n```text\n{failure.traceback.strip()}\n```" for name, failure in failures.items())


def settings_text(job: Job) -> str:
    return (
        f"Batch {job.batch_size}, {job.rounds} interleaved rounds of {job.steps} timed steps ({job.lead_in} before and "
        f"{job.tail} after them are not timed), {job.images:,} images, {job.workers} loading workers, teacher "
        f"{'ResNet-8' if job.smoke else 'ResNet-56'}, student {'ResNet-8' if job.smoke else 'ResNet-20'}."
    )


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
