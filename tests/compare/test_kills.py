"""A comparison that is killed at any moment goes on, repeats no finished run, and comes to the same figures."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lit_distill.compare import Comparison, Results, read_plan, running, tasks, training
from lit_distill.files import whole_file
from tests.compare.plans import network, write
from tests.promises.forks import in_fork

pytestmark = pytest.mark.slow
KILLED = 128 + signal.SIGKILL


def compare_all(path: Path, folder: Path) -> None:
    assert not Comparison(read_plan(path, folder), say=lambda line: None).run(jobs=1).failed


def figures(folder: Path) -> dict[tuple[str, str, str, int], Any]:
    return {one.run: (one.score, one.teacher_score, one.figures, one.curve) for one in Results(folder / "runs")}


class Reaper:
    """Kills this process when a function is called for the n-th time."""

    def __init__(self, function: Callable[..., Any], left: int) -> None:
        self.function, self.left = function, left

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(*arguments, **named)


def test_kills_change_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_distill.measures.whole._SECONDS", 0.01)
    monkeypatch.setattr(training, "_PAUSE", 0.0)  # a checkpoint each epoch
    train = {"network": network(4), "train": "configs/digits/teacher.yaml"}
    big = {**train, "options": {"trainer.max_epochs": 2, "data.train_size": 40}}
    path = write(tmp_path, teachers={"big": big}, methods=["at"], seeds=2, epochs=3)
    compare_all(path, tmp_path / "whole")
    moments: list[tuple[Any, str, int]] = [
        (training, "seed_everything", 3),  # in the second epoch of the teacher: a seed at the start, and one an epoch
        (tasks, "test_figures", 1),  # trained and saved, not yet tested
        (training, "seed_everything", 4),  # in the third epoch of the first run
        (running, "clear", 1),  # the result is written, its remains are not removed
        (training, "test_figures", 1),  # before a run's test
        (whole_file, "_sync", 2),  # while a file is written
        (training, "deployed", 2),
    ]
    finished: set[Any] = set()
    for module, name, moment in moments:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, Reaper(getattr(module, name), moment))
            assert in_fork(partial(compare_all, path, tmp_path / "killed")) == KILLED, name
        there = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "killed/runs").glob("*.json")}
        assert finished <= set(there.items()), "a finished run was repeated"
        finished = set(there.items())
    compare_all(path, tmp_path / "killed")
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert len(figures(tmp_path / "whole")) == 4
    assert not list((tmp_path / "killed/running").glob("*"))
