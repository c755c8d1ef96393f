"""A comparison that is killed again and again comes to the same figures as one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_distill.compare import Results
from tests.compare.plans import network, write

ROOT = Path(__file__).parents[2]


def start(path: Path, folder: Path, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lit_distill", "compare", str(path), "--folder", str(folder), "--jobs", str(jobs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def figures(folder: Path) -> dict[tuple[str, str, str, int], object]:
    return {one.run: (one.figures, one.curve) for one in Results(folder / "runs")}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_kills_change_no_figure(jobs: int, tmp_path: Path) -> None:
    train = {"network": network(4), "train": "configs/digits/teacher.yaml"}
    big = {**train, "options": {"trainer.max_epochs": 3, "data.train_size": 200}}
    path = write(tmp_path, teachers={"big": big}, methods=["kd", "at"], seeds=2, epochs=20)
    assert start(path, tmp_path / "whole", 2).wait(timeout=300) == 0
    draw = random.Random(jobs)
    kills = 0
    while True:
        process = start(path, tmp_path / "killed", jobs)
        wait = draw.uniform(4, 14)
        try:
            code = process.wait(timeout=wait)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(1.5)  # the workers notice
    assert code == 0
    assert kills > 0
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert len(figures(tmp_path / "whole")) == 6
