"""The command: what it prints, its exit code, and that it leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_distill.doctor import CHECKS, Finding, Report, main
from lit_distill.doctor.checks import CRITERION_CHECKS, TRAINING_CHECKS
from lit_distill.doctor.findings import Check, bug, check
from lit_distill.models import SmallCNN

LOGIT = ["--config", "configs/digits/logit.yaml", "--steps", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a digits teacher."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits/teacher").mkdir(parents=True)
    torch.save(SmallCNN(32).state_dict(), tmp_path / "runs/digits/teacher/teacher.ckpt")
    return tmp_path


def test_reports_every_check_in_a_line_and_leaves_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(folder.rglob("*"))
    assert main(LOGIT) == 0
    told = capsys.readouterr().out
    for name in CHECKS:
        assert re.search(rf"^(ok|-|warning) +{name} ", told, re.M), name
    assert re.search(r"^0 bugs, 1 warning; 2 training steps in \d+\.\d s\.", told, re.M)  # the teacher is not trained
    assert set(folder.rglob("*")) == before


def test_fails_where_there_is_a_bug(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = folder / "mine.yaml"
    overlay.write_text(
        "model:\n"
        "  class_path: lit_distill.LogitDistillation\n"
        "  init_args:\n"
        "    criteria: {soft: {class_path: tests.doctor.bugs.NegativeKL}}\n"
        "    weights: {soft: 1.0}\n"
    )
    assert main([*LOGIT, "--config", str(overlay)]) == 1
    told = capsys.readouterr().out
    assert "BUG      sign             criterion 'soft' (NegativeKL)" in told
    assert "turn the sign of the term" in told


def test_takes_further_options_as_fit_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LOGIT, "--model.student.init_args.width", "4", "--trainer.precision=bf16-mixed"]) == 0
    assert "ok       finite" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--config", "x.yaml", "--steps", "0"], ["--config", "x.yaml", "--steps", "21"]])
def test_refuses_wrong_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert re.search("--steps must be 1 to 20|required: -c/--config", capsys.readouterr().err)


def test_a_report_counts_and_explains() -> None:
    bug = Finding("sign", "bug", "criterion 'soft'", "is 0 where it should not be.", "turn the sign.")
    warning = Finding("cost", "warning", "criterion 'slow'", "takes long.", "make it faster.")
    report = Report([bug, warning], frozenset({"sign", "cost", "finite"}), 3, 1.25, ["one was left out"])
    told = report.render()
    assert report.bugs == [bug]
    assert "BUG      sign             criterion 'soft'\n" in told
    assert "-> turn the sign." in told
    assert "warning  cost             criterion 'slow'\n" in told
    assert f"ok       finite           {CHECKS['finite']}" in told
    assert "-        mask             does not apply" in told
    assert "note     one was left out" in told
    assert told.endswith("1 bug, 1 warning; 3 training steps in 1.2 s. What the checks mean: docs/doctor.md.")


@pytest.mark.parametrize("checks", [TRAINING_CHECKS, CRITERION_CHECKS], ids=["training", "criterion"])
def test_the_page_has_a_row_for_every_check_with_its_docstring(checks: dict[str, Check[Any]]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/doctor.md").read_text()
    texts = {name: " ".join(str(check.find.__doc__).split()).replace("``", "`") for name, check in checks.items()}
    assert "\n".join(f"| `{name}` | {text} |" for name, text in texts.items()) in page


def test_a_check_is_one_function_and_names_its_findings() -> None:
    @check("even", "the number is even")
    def even(number: int) -> list[Finding] | None:
        """Bug if the number is odd."""
        return None if number < 0 else bug("the number", f"is {number}.", "add 1.") if number % 2 else []

    assert (even.name, even.holds) == ("even", "the number is even")
    assert even(3) == [Finding("even", "bug", "the number", "is 3.", "add 1.")]
    assert even(2) == []
    assert even(-1) is None
