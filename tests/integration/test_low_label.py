"""The claim itself: with few labels, a distilled student beats the same student trained on labels alone."""

from __future__ import annotations

import statistics

import pytest

from lit_distill.cli.demo import _train_student, _train_teacher


@pytest.mark.slow
def test_a_distilled_student_beats_the_baseline_in_the_mean(tmp_path_factory: pytest.TempPathFactory) -> None:
    logs = str(tmp_path_factory.mktemp("logs"))
    teacher, accuracy = _train_teacher(logs)
    assert accuracy > 0.97
    seeds, epochs = range(3), 60
    alone = [_train_student(None, seed, epochs, logs) for seed in seeds]
    distilled = [_train_student(teacher, seed, epochs, logs) for seed in seeds]
    assert statistics.fmean(distilled) > statistics.fmean(alone)
