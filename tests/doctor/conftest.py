"""What the doctor's tests share."""

from __future__ import annotations

import pytest

from lit_distill.doctor import examining


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no check out on a busy machine."""
    monkeypatch.setattr(examining, "_PATIENCE", 600.0)
