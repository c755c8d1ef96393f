"""The counts of cases are printed, so that the reliability page can quote them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = """
from tests.promises.conftest import tally
from tests.promises.counting import pytest_terminal_summary
"""
_TEST = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_kept(tally, number):
    tally("nothing is lost", cases=2)

def test_broken(tally):
    assert False
    tally("nothing is lost")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_cases_are_counted_whatever_the_number_of_processes(tmp_path: Path, processes: int) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_one.py").write_text(_TEST)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"-n{processes}", str(tmp_path)]
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=there)
    assert "     6  nothing is lost" in done.stdout, done.stdout + done.stderr
