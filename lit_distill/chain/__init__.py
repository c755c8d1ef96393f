"""Chains of fits: each link's student is the next one's teacher.

May import all of the package except ``doctor``.
"""

import warnings
from typing import Any

from lit_distill.chain.config import read_chain
from lit_distill.chain.link import Link, LinkCheckpoint, Record
from lit_distill.chain.planning import PlannedLink, plan, settings_of
from lit_distill.chain.running import main, run

__all__ = ["Link", "LinkCheckpoint", "PlannedLink", "Record", "main", "plan", "read_chain", "run", "settings_of"]


def __getattr__(name: str) -> Any:
    if name == "Step":
        warnings.warn("lit_distill.chain.Step is now lit_distill.chain.PlannedLink.", DeprecationWarning, stacklevel=2)
        return PlannedLink
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
