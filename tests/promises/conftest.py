"""Counts the cases that each promise of docs/reliability.md was put to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.promises.counting import PROMISE

Tally = Callable[..., None]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Say that a case of a promise was tried, and kept: ``tally("bad input is refused")``.

    To be called after the last check of the case, so that a case that failed is tried and not kept. A test that tries several
    calls it once for each, or with their number.
    """

    def kept(promise: str, cases: int = 1) -> None:
        request.node.user_properties.append((PROMISE, (promise, cases)))

    return kept


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every case run beside the slow tests, where their counts stand together."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
