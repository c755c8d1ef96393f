"""Runs over seeds: their rows are kept on disk as they come, summed up and drawn."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import statistics
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException


class Rows:
    """A JSON file with a row for each run, written as soon as it ends: a benchmark that is cut off goes on.

    Several processes may add to one file; of the same run, the first row counts.

    Args:
        path: The file; read where it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._read()

    def has(self, method: str, seed: int) -> bool:
        self._read()
        return any(row["method"] == method and row["seed"] == seed for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.has(row["method"], row["seed"]):
                return
            self.rows.append(row)
            beside = self.path.with_suffix(".part")
            beside.write_text(json.dumps(self.rows, indent=1))
            beside.replace(self.path)

    def _read(self) -> None:
        if self.path.is_file():
            self.rows = json.loads(self.path.read_text())

    def of(self, method: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["method"] == method]

    def paired(self, method: str, other: str, key: str) -> list[float]:
        """The differences of a figure to another method's, seed by seed, where both have one."""
        beside = {row["seed"]: row[key] for row in self.of(other) if key in row}
        return [row[key] - beside[row["seed"]] for row in self.of(method) if key in row and row["seed"] in beside]


def quietly() -> None:
    """Silence Lightning's notes and all warnings, which thousands of epochs would repeat."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def over_seeds(
    results: Rows, methods: Sequence[str], seeds: int, run: Callable[[str, int], dict[str, Any]], key: str = "accuracy"
) -> dict[str, str]:
    """Run each method with each seed, if the results do not have it yet.

    Args:
        results: Receives a row per run.
        methods: Names, in the order of the runs of a seed.
        seeds: How many, from 0 on.
        run: Trains and tests a method with a seed; returns a row's figures.
        key: The figure that is printed after each run.

    Returns:
        Why methods failed, by name; a method that failed is not run again.
    """
    failed: dict[str, str] = {}
    for seed in range(seeds):
        for method in methods:
            if results.has(method, seed) or method in failed:
                continue
            try:
                figures = run(method, seed)
            except SIGTERMException:
                raise
            except (Exception, SystemExit) as error:  # one broken method must not cost the others
                traceback.print_exc()
                failed[method] = str(error)
                continue
            results.add({"method": method, "seed": seed, **figures})
            print(f"{method}, seed {seed}: {figures[key]:.2%}", flush=True)
    return failed


def percent(rows: Iterable[dict[str, Any]], key: str) -> list[float]:
    """Return a figure of every row that has it, in percent."""
    return [100 * row[key] for row in rows if key in row]


def mean(values: list[float], digits: int = 0) -> str:
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def spread(values: list[float], sign: bool = False) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.fmean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def with_error(values: list[float]) -> str:
    """Mean and its standard error, signed."""
    mean = f"{statistics.fmean(values):+.2f}"
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else mean
