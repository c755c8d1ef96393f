"""The cases of every criterion, from the files that hold them."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.criteria.cases import Case

CASES: list[Case] = [
    case
    for path in sorted(Path(__file__).parent.glob("cases_*.py"))
    for case in importlib.import_module(f"tests.criteria.{path.stem}").CASES
]
