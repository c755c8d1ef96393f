"""What older releases of a dependency cannot do themselves; docs/guide.md lists it."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version


def skip_before(package: str, least: str, reason: str) -> None:
    """Skip the test that calls this with releases of a package before ``least``."""
    if Version(version(package)) < Version(least):
        pytest.skip(f"{package} before {least}: {reason}")
