"""Two names and a folder, to the end, with tiny networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

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


def run(folder: Path, launch: Any = here, again: bool = False, dry_run: bool = False, **asked: Any) -> FitResult:
    given = {"teacher": "lit_distill.models.resnet8@teacher.pth", "student": "lit_distill.models.resnet8", "epochs": 1}
    request = Request(
        data=str(folder / "images"), folder=str(folder / "out"), options=QUIET, **{**given, "batch_size": 32, **asked}
    )
    return fitting.run_request(request, again, launch, dry_run)


def state(checkpoint: Path) -> Mapping[str, Tensor]:
    found: Mapping[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with images of three classes, and a teacher of five."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "images")
    torch.save(resnet8(5).state_dict(), "teacher.pth")
    return tmp_path


@pytest.mark.slow
def test_it_trains_what_it_says_and_goes_on_where_it_stopped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []

    def ends_the_student(words: list[str]) -> int:
        ran.append(Path(words[2]).stem)
        return 137 if ran[-1] == "student" and ran.count("student") == 1 else here(words)

    with pytest.raises(SystemExit, match="exit code 137"):
        run(place, ends_the_student)
    said = capsys.readouterr().out
    assert "tells apart 5 classes, and the folder has 3: its classifier is replaced and trained first" in said
    assert ran == ["teacher", "no_teacher", "student"]
    result = run(place, ends_the_student)  # finished trainings are not repeated
    assert ran == ["teacher", "no_teacher", "student", "student"]
    assert [row.network for row in result.rows] == ["student", "teacher", "no teacher"]
    size = sum(parameter.numel() for parameter in resnet8(3).parameters())
    assert [row.parameters for row in result.rows] == [size] * 3
    assert result.classes == ("blue", "green", "red")
    # The teacher's body is bit for bit what it was, statistics included; its head is new.
    taught, before = state(place / "out/teacher/last.ckpt"), torch.load("teacher.pth", weights_only=True)
    assert all(torch.equal(taught[f"student.{k}"], v) for k, v in before.items() if not k.startswith("linear"))
    assert taught["student.linear.weight"].shape == (3, 64)
    # The file of weights is the returned network, and the distillation's.
    weights, last = torch.load(result.weights, weights_only=True), state(place / "out/student/last.ckpt")
    assert all(torch.equal(last[f"student.{k}"], v) for k, v in weights.items())
    assert all(torch.equal(result.student.state_dict()[k], v) for k, v in weights.items())
    # Once more: nothing runs, and the table is the same.
    assert str(run(place, ends_the_student)) == str(result)
    assert len(ran) == 4


@pytest.mark.slow
def test_its_config_repeats_it_and_other_settings_are_refused(place: Path) -> None:
    torch.save(resnet8(3).state_dict(), "teacher.pth")
    first = run(place, teacher_training="none", control=False)
    assert [row.network for row in first.rows] == ["student", "teacher"]
    assert "it is not known whether the teacher helped" in str(first)
    config = yaml.safe_load(first.config.read_text())
    config["trainer"]["callbacks"] += [
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "repeated", "filename": "last"}}
    ]
    Path("repeated.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "repeated.yaml"])
    one, other = state(place / "out/student/last.ckpt"), state(place / "repeated/last.ckpt")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    with pytest.raises(ValueError, match=r"(?s)other settings than those asked for now:\n  seed: 0, now 1.*--again"):
        run(place, teacher_training="none", control=False, seed=1)
    (place / "images/red/99.png").write_bytes((place / "images/blue/00.png").read_bytes())
    with pytest.raises(ValueError, match="images: counts.train: 26, now 27"):
        run(place, teacher_training="none", control=False)
    ran: list[str] = []

    def counted(words: list[str]) -> int:
        ran.append(words[2])
        return here(words)

    run(place, counted, again=True, teacher_training="none", control=False)
    assert len(ran) == 1
    longer = run(place, counted, again=True, teacher_training="none", control=False, epochs=2)
    assert len(ran) == 2
    assert not torch.equal(longer.student.state_dict()["linear.weight"], first.student.state_dict()["linear.weight"])


def test_networks_of_other_sizes_and_normalisation_see_the_same_images(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "nets.py").write_text(
        "from lit_distill.models import resnet8\n\n\n"
        "def half(num_classes=3):\n"
        "    made = resnet8(num_classes)\n"
        "    made.pretrained_cfg = dict(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "    return made\n"
    )
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(SystemExit):
        run(place, student="nets.half", teacher="lit_distill.models.resnet8@random", dry_run=True)
    config = yaml.safe_load((place / "out/student.yaml").read_text())
    assert config["data"]["init_args"]["mean"] == [0.5] * 3
    assert "image_size" not in config["data"]["init_args"]  # they have it
    student, teacher = (config["model"]["init_args"][owner]["init_args"] for owner in ("student", "teacher"))
    assert student["size"] == 8
    assert "mean" not in student
    assert "size" not in teacher
    assert (teacher["mean"][0], teacher["student_mean"][0]) == (0.485, 0.5)
