"""Prints, at the end of a run, how many cases of each promise were kept.

The hook stands in the conftest.py above all tests: with several processes, the one that prints reads no other.
"""

from __future__ import annotations

from collections import Counter

import pytest

PROMISE = "promise"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases of each promise were kept; the tests that failed are listed by pytest itself."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for key, value in getattr(report, "user_properties", ()):
            if key == PROMISE and report.when == "call":
                promise, cases = value
                counts[promise] += cases
    if counts:
        terminalreporter.section("promises kept (cases)")
        for promise, cases in sorted(counts.items()):
            terminalreporter.write_line(f"{cases:6d}  {promise}")
