"""Markdown tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from measure.growth import Growth
from measure.job import Job
from measure.loss import LossFigures
from measure.process import Failure
from measure.rounds import Result
from measure.whole import ONLINE, Whole


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


def whole_table(whole: Whole) -> str:
    rows = []
    for name in (*whole.measured, *whole.failures):
        if name in whole.failures:
            rows.append([name, whole.failures[name].error, "", "", ""])
            continue
        cells = []
        for seconds in (whole.measured, whole.computed):
            cells.append(f"{seconds[name]:.0f}" if name in seconds else "-")
            cells.append(f"{seconds[ONLINE] / seconds[name]:.2f}" if {ONLINE, name} <= set(seconds) else "-")
        rows.append([name, *cells])
    return markdown(["training", "s of fit, measured", "times faster", "s for 50,000 images, computed", ""], rows)


def loss_table(figures: LossFigures) -> str:
    rows = []
    for name, peak, seconds in (
        ("kl_div of two softmaxes", figures.naive, figures.naive_seconds),
        ("SoftTarget", figures.ours, figures.ours_seconds),
    ):
        median = sorted(seconds)[len(seconds) // 2]
        rows.append([name, mebibytes(peak.above), mebibytes(peak.above + figures.inputs), f"{1000 * median:.0f}"])
    ratios = [f"{ratio:.2f}" for ratio in (figures.memory_ratio, figures.memory_ratio_with_inputs, figures.time_ratio)]
    rows.append(["ratio", *ratios])
    return markdown(["loss", "peak above the inputs, MiB", "with the inputs, MiB", "ms"], rows)


def growth_table(growth: Growth) -> str:
    rows = [[f"{point.setting:,}", f"{point.images_per_second:.0f}", mebibytes(point.peak)] for point in growth.points]
    rows += [["-", failure.error, ""] for failure in growth.failures]
    return markdown([growth.axis, "images/s", "peak, MiB"], rows)


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def failures_text(failures: dict[str, Failure]) -> str:
    """The tracebacks of what failed."""
    return "\n\n".join(f"### {name}\n\n```text\n{failure.traceback.strip()}\n```" for name, failure in failures.items())


def settings_text(job: Job) -> str:
    return (
        f"Batch {job.batch_size}, {job.rounds} interleaved rounds of {job.steps} timed steps ({job.lead_in} before and "
        f"{job.tail} after them are not timed), {job.images:,} images, {job.workers} loading workers, teacher "
        f"{'ResNet-8' if job.smoke else 'ResNet-56'}, student {'ResNet-8' if job.smoke else 'ResNet-20'}."
    )
