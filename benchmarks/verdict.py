"""What do the methods reach untuned? Weights found in training beside the configs' and a sweep of fixed ones.

    lit-distill compare benchmarks/plans/digits-methods.yaml
    python benchmarks/verdict.py runs/benchmarks/digits-methods/results.json --save benchmarks/results/untuned-digits.json
    python benchmarks/verdict.py benchmarks/results/untuned-digits.json

All differences are paired by seed. The best of a sweep is the largest of several noisy means, and so too high an estimate:
the last but one column takes for each seed the scale that is best on the other seeds, which is not biased upwards.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Container
from pathlib import Path

from measure.report import markdown, spread, with_error
from measure.untuned import BASELINE, CONFIG, FOUND, PLAIN, Sweep, Untuned, gaps, pooled_deviation, read, swept, write

_HEADER = (
    "method",
    "seeds",
    "config's weights",
    "found",
    "found - no teacher",
    "best of sweep",
    "at",
    "found - best",
    "found - picked",
    "weight, first to last",
)


def table(results: Untuned) -> str:
    """A line for each method, the best first."""
    control = results.of(BASELINE)
    methods = sorted(results.methods(), key=lambda name: -statistics.fmean(results.of(name, FOUND).values()))
    seeds = {seed for name in methods for seed in results.of(name, FOUND)}
    compared = {name: _among(results.of(name), seeds) for name in (BASELINE, PLAIN)}
    rows = [[name, str(len(values)), _mean(values), *[""] * 7] for name, values in compared.items()]
    for name in methods:
        found, sweep = results.of(name, FOUND), swept(results, name)
        config = _among(results.of(PLAIN if name == "kd" else name, CONFIG), found)
        ours = [name, str(len(found)), _mean(config), _mean(found), _difference(found, control)]
        rows.append([*ours, *_of_sweep(found, sweep), drift(results, name)])
    return markdown(_HEADER, rows)


def _of_sweep(found: dict[int, float], sweep: Sweep | None) -> list[str]:
    if sweep is None:
        return ["-"] * 4
    differences = (_difference(found, sweep.best), _difference(found, sweep.picked))
    return [_mean(sweep.best), f"x {sweep.scale}", *differences]


def _among(values: dict[int, float], seeds: Container[int]) -> dict[int, float]:
    """The values of the seeds that were also run with found weights."""
    return {seed: value for seed, value in values.items() if seed in seeds}


def _mean(values: dict[int, float]) -> str:
    return spread(list(values.values())) if values else "-"


def _difference(one: dict[int, float], other: dict[int, float]) -> str:
    differences = gaps(one, other)
    return with_error(differences) if differences else "-"


def drift(results: Untuned, method: str) -> str:
    """The weights that are found at the start and at the end of training."""
    words = []
    for name, weight in results.logged(method).items():
        words.append(f"{name} {weight['first']:.3g} to {weight['last']:.3g} (x {weight['last'] / weight['first']:.2g})")
    return ", ".join(words)


def verdict(results: Untuned) -> str:
    """The counts that the aims are about, and how certain they are."""
    control, methods = results.of(BASELINE), results.methods()
    to_control = {name: gaps(results.of(name, FOUND), control) for name in methods}
    means = {name: statistics.fmean(values) for name, values in to_control.items() if values}
    below = sorted((name for name in means if means[name] < -1), key=lambda name: means[name])
    level = [name for name in means if means[name] >= 0]
    seeds = max(len(values) for values in to_control.values())
    lines = [
        f"{len(means)} methods, up to {seeds} seeds; mean of found - no teacher {statistics.fmean(means.values()):+.2f}.",
        f"Below no teacher by more than 1 point: {len(below)}{_listed(below, means)}.",
        f"At or above no teacher: {len(level)}.",
        *_sweep_lines(results, methods),
        _noise("found - no teacher", list(to_control.values()), seeds),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _sweep_lines(results: Untuned, methods: list[str]) -> list[str]:
    sweeps = {name: sweep for name in methods if (sweep := swept(results, name)) is not None}
    lines = []
    for words, side in (("the best of the sweep", "best"), ("the scale picked on the other seeds", "picked")):
        beside = {name: gaps(results.of(name, FOUND), getattr(sweep, side)) for name, sweep in sweeps.items()}
        means = {name: statistics.fmean(values) for name, values in beside.items() if values}
        if not means:
            continue
        behind = sorted((name for name in means if means[name] < -0.5), key=lambda name: means[name])
        lines.append(
            f"Within 0.5 points of {words}: {len(means) - len(behind)} of {len(means)}{_listed(behind, means)}."
        )
    return lines


def _listed(names: list[str], values: dict[str, float]) -> str:
    return f" ({', '.join(f'{name} {values[name]:+.1f}' for name in names)})" if names else ""


def _noise(what: str, samples: list[list[float]], seeds: int) -> str:
    deviation = pooled_deviation(samples)
    if math.isnan(deviation):
        return f"One seed: nothing is known of the noise of {what}."
    error = deviation / math.sqrt(seeds)
    by_chance = statistics.NormalDist(0, error).cdf(-1)
    return (
        f"A paired difference {what} has a standard deviation of {deviation:.2f} over seeds (pooled over methods), so a mean "
        f"of {seeds} a standard error of {error:.2f}: of methods that are level with no teacher, {by_chance:.0%} would be more "
        "than 1 point below by chance."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", type=Path, help="a comparison's results.json, a file from --save, or a stem of files of raw rows"
    )
    parser.add_argument("--save", type=Path, help="write the rows that were read to one file")
    options = parser.parse_args()
    results = read(options.results)
    if options.save is not None:
        write(results, options.save)
    print(f"{table(results)}\n\n{verdict(results)}")


if __name__ == "__main__":
    main()
