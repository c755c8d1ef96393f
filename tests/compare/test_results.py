"""Results on the disk: whole or not there, and found again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lit_distill.compare.results import CONTROL, Result, Results, file_stem, read_json, write_json


def result(
    student: str = "small", teacher: str = "big", method: str = "kd", seed: int = 0, score: float = 0.5
) -> Result:
    return Result(
        student, teacher, method, seed, score, 0.9 if teacher else None, 2.0, ((1, 0.25), (2, 0.5)), 10, 40, 0.125, 2
    )


def test_results_are_found_again_by_another_reader(tmp_path: Path) -> None:
    written = Results(tmp_path)
    written.add(result(), "digest")
    written.add(result(teacher="", method=CONTROL))
    found = Results(tmp_path)
    assert list(found) == list(written)
    assert found.settings_of("small", "big", "kd", 0) == "digest"
    assert found.of(method=CONTROL)[0].is_control
    assert found.has("small", "big", "kd", 0)
    assert not found.has("small", "big", "kd", 1)
    assert [one.method for one in found.of(teacher="big")] == ["kd"]


def test_names_that_look_alike_in_file_names_are_kept_apart(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for method in ("a b", "a/b", "a_b"):
        results.add(result(method=method))
    assert len(Results(tmp_path)) == 3
    assert file_stem("a", "b", "c", 1) != file_stem("a-b", "", "c", 1)


def test_a_result_that_is_added_again_replaces_the_first(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(result(score=0.1))
    results.add(result(score=0.2))
    assert [one.score for one in Results(tmp_path)] == [0.2]
    results.remove(result())
    assert len(results) == len(Results(tmp_path)) == 0


def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"settings": ""}))
    with pytest.raises(ValueError, match=r"other\.json holds no result"):
        Results(tmp_path)


def test_csv_and_json_hold_what_was_measured(tmp_path: Path) -> None:
    results = Results(tmp_path / "runs")
    results.add(result(teacher="", method=CONTROL))
    results.add(result())
    results.write_csv(tmp_path / "results.csv")
    results.write_json(tmp_path / "results.json")
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["method"] for row in rows] == [CONTROL, "kd"]
    assert [row["teacher_score"] for row in rows] == ["", "0.9"]
    assert float(rows[1]["latency_ms"]) == 0.125
    assert read_json(tmp_path / "results.json") == list(results)
    write_json([result()], tmp_path / "one.json")
    assert read_json(tmp_path / "one.json")[0].curve == ((1, 0.25), (2, 0.5))
