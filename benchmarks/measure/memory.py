"""Peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Peak:
    """Memory while something ran, in bytes.

    Attributes:
        before: Held when it began: the inputs and, on a CPU, Python and its libraries.
        peak: The most held at a time.
    """

    before: int
    peak: int

    @property
    def above(self) -> int:
        """The most that it held at a time on top of what was there."""
        return self.peak - self.before


def measure_peak(work: Callable[[], object]) -> Peak:
    """Run something once: resident memory on a CPU, PyTorch's own count on a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return Peak(before, torch.cuda.max_memory_allocated())
    _reset_peak()
    before = _status("VmRSS") or _highest()
    work()
    return Peak(before, _status("VmHWM") or _highest())


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the process's whole life
        return


def _status(field: str) -> int:
    if not _STATUS.exists():
        return 0
    line = next((line for line in _STATUS.read_text().splitlines() if line.startswith(field)), None)
    return int(line.split()[1]) << 10 if line else 0


def _highest() -> int:
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest << 10
