"""Two names and a folder, to the end, with tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_distill.by_name import fitting
from lit_distill.by_name.outcome import FitResult
from lit_distill.by_name.request import Request
from lit_distill.cli.command import main
from lit_distill.models import resnet8
from tests.by_name.folders import make_folder

QUIET = {"trainer.enable_progress_bar": False, "trainer.accelerator": "cpu", "trainer.logger": False}


def here(words: list[str]) -> int:
    """Run a link in this process: the import of the library is most of a short one's time."""
    main(words)
    return 0


def run(folder: Path, launch: Any = here, again: bool = False, **asked: Any) -> FitResult:
    given = {
        "teacher": "lit_distill.models.resnet8@teacher.pth",
        "student": "lit_distill.models.resnet8",
        "epochs": 2,
        **asked,
    }
    request = Request(data=str(folder / "images"), folder=str(folder / "out"), options=QUIET, **given)
    return fitting.run_request(request, again, launch)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with images of three classes, and a teacher of five."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "images")
    torch.save(resnet8(5).state_dict(), "teacher.pth")
    return tmp_path


def test_it_trains_the_head_the_control_and_the_student(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(place)
    said = capsys.readouterr().out
    assert "tells apart 5 classes, and the folder has 3: its classifier is replaced and trained first" in said
    assert [row.network for row in result.rows] == ["student", "teacher", "no teacher"]
    assert result.rows[0].parameters == result.rows[2].parameters == sum(p.numel() for p in resnet8(3).parameters())
    assert result.classes == ("blue", "green", "red")
    # The teacher's body is bit for bit what it was; its head is new.
    trained = torch.load(place / "out/teacher/last.ckpt", weights_only=True)["state_dict"]
    before = torch.load("teacher.pth", weights_only=True)
    assert all(torch.equal(trained[f"student.{k}"], v) for k, v in before.items() if not k.startswith("linear"))
    assert trained["student.linear.weight"].shape == (3, 64)
    # The file of weights is the returned network, and the distillation's.
    weights = torch.load(result.weights, weights_only=True)
    state = torch.load(place / "out/student/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(state[f"student.{k}"], v) for k, v in weights.items())
    assert all(torch.equal(result.student.state_dict()[k], v) for k, v in weights.items())
