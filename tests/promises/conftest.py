"""Counts the cases that each promise of docs/reliability.md was put to, and prints the counts at the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

Tally = Callable[..., None]
_KEY = "promise"


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Say that a case of a promise was tried, and kept: ``tally("bad input is refused")``.

    To be called after the last check of the case, so that a case that failed is tried and not kept. A test that tries several
    calls it once for each, or with their number.
    """

    def kept(promise: str, cases: int = 1) -> None:
        request.node.user_properties.append((_KEY, (promise, cases)))

    return kept


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every case run beside the slow tests, where their counts stand together."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases of each promise were kept; the tests that failed are listed by pytest itself."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for key, value in getattr(report, "user_properties", ()):
            if key == _KEY and report.when == "call":
                promise, cases = value
                counts[promise] += cases
    if counts:
        terminalreporter.section("promises kept (cases)")
        for promise, cases in sorted(counts.items()):
            terminalreporter.write_line(f"{cases:6d}  {promise}")
