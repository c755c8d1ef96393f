"""The counts of cases are printed, so that the reliability page can quote them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(_TEST)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"-n{processes}", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "     6  nothing is lost" in done.stdout, done.stdout + done.stderr
