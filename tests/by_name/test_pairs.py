"""Pairs of timm, torchvision and Hugging Face, to the end; and a fit that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_distill
from lit_distill.by_name import fitting
from lit_distill.by_name.outcome import FitResult
from lit_distill.by_name.request import Request
from lit_distill.cli.command import main
from lit_distill.cli.fit import DistillationCLI
from lit_distill.models import named_model, resnet8
from tests.by_name.folders import make_folder

pytestmark = pytest.mark.slow
QUIET = {"trainer.enable_progress_bar": False, "trainer.accelerator": "cpu", "trainer.logger": False}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "images", images=10)
    return tmp_path


def here(words: list[str]) -> int:
    main(words)
    return 0


def run(launch: Any = here, **asked: Any) -> FitResult:
    return fitting.run_request(Request(data="images", **{"options": QUIET, "epochs": 1, **asked}), launch=launch)


def hugging_face(folder: Path) -> str:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTForImageClassification(ViTConfig(image_size=48, patch_size=16, num_labels=6, **sizes)).save_pretrained(folder)
    size = {"height": 48, "width": 48}
    ViTImageProcessor(size=size, image_mean=[0.1] * 3, image_std=[0.2] * 3).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize(
    ("teacher", "student", "size"),
    [
        ("HF", "timm:test_resnet@random", 32),  # 48x48, its own normalisation, and a head of its own
        ("timm:test_vit@random", "torchvision:squeezenet1_1@random", None),
        ("torchvision:mobilenet_v3_small@random", "HF", None),
    ],
)
def test_pairs_that_differ_in_everything(place: Path, teacher: str, student: str, size: int | None) -> None:
    names = [hugging_face(place / "vit") if name == "HF" else name for name in (teacher, student)]
    result = run(teacher=names[0], student=names[1], image_size=size)
    assert [row.network for row in result.rows] == ["student", "teacher", "no teacher"]
    # What the folder says of the student is enough to use its weights elsewhere.
    again = named_model(f"{names[1].partition('@')[0]}@{result.weights}", 3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in result.student.state_dict().items())


def test_by_features_too_with_layers_that_are_found(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"teacher": "torchvision:mobilenet_v3_small@random", "student": "timm:test_resnet@random"}
    options = {**QUIET, "model.class_path": "CombinedDistillation", "model.temperature": 2}
    result = run(**names, image_size=64, teacher_training="all", control=False, options=options)
    config = yaml.safe_load(result.config.read_text())["model"]
    assert (config["class_path"], config["init_args"]["temperature"]) == ("CombinedDistillation", 2)


def test_both_students_start_from_the_same_weights(place: Path) -> None:
    request = Request("timm:test_vit@random", "timm:test_resnet@random", "images", "out", image_size=32, options=QUIET)
    with pytest.raises(SystemExit):
        fitting.run_request(request, dry_run=True)
    (place / "out/teacher").mkdir()
    torch.save(named_model("timm:test_vit@random", 3).state_dict(), "out/teacher/last.ckpt")
    made = [
        DistillationCLI(["--config", f"out/{name}.yaml"], run=False).model.student.state_dict()
        for name in ("no_teacher", "student")
    ]
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())


def test_a_fit_that_is_killed_goes_on_to_the_same_weights(place: Path) -> None:
    torch.save(resnet8(3).state_dict(), "teacher.pth")
    asked = {"teacher": "lit_distill.models.resnet8@teacher.pth", "student": "lit_distill.models.resnet8", "epochs": 25}
    asked |= {"teacher_training": "none", "control": False}
    checkpoint = place / "killed/student/last.ckpt"

    def kill_midway(words: list[str]) -> int:
        process = subprocess.Popen([sys.executable, "-m", "lit_distill", *words])
        while not checkpoint.is_file() and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        return process.wait(60)

    with pytest.raises(
        SystemExit, match="lit-distill fit: link 'student' ended early .exit code -9.. The same command"
    ):
        run(kill_midway, folder="killed", **asked)
    assert torch.load(checkpoint, weights_only=True)["epoch"] < 24
    one, other = run(folder="killed", **asked), run(folder="whole", **asked)
    whole = other.student.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in one.student.state_dict().items())


def test_in_processes_of_its_own(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ("lit_distill.models.resnet8@random", "lit_distill.models.resnet8")
    result = lit_distill.fit(*names, "images", epochs=1, control=False, options=QUIET)
    assert result.folder == Path("runs/images/resnet8-from-resnet8")
    assert "[2/2] student: starts" in capfd.readouterr().out
    assert "accuracy" in str(result)
