"""Results of runs over seeds: kept on disk as they come, and summed up."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any


class Rows:
    """A JSON file with a row for each run, written as soon as it ends: a benchmark that is cut off goes on.

    Args:
        path: The file; read where it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []

    def has(self, method: str, seed: int) -> bool:
        return any(row["method"] == method and row["seed"] == seed for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.rows, indent=1))
        beside.replace(self.path)

    def of(self, method: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["method"] == method]

    def paired(self, method: str, other: str, key: str) -> list[float]:
        """The differences of a figure to another method's, seed by seed, where both have one."""
        beside = {row["seed"]: row[key] for row in self.of(other) if key in row}
        return [row[key] - beside[row["seed"]] for row in self.of(method) if key in row and row["seed"] in beside]


def spread(values: list[float], sign: bool = False) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.fmean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def with_error(values: list[float]) -> str:
    """Mean and its standard error, signed."""
    mean = f"{statistics.fmean(values):+.2f}"
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else mean
