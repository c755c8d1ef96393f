"""What the tests of exports share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time files shortly: no test reads how long they take."""
    monkeypatch.setattr(sys.modules["lit_distill.export.verifying"], "_SECONDS", 0.01)
