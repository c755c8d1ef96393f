"""`lit-distill record`: the recording alone, and the fit that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lit_distill.cli.command import main
from lit_distill.models import SmallCNN
from lit_distill.recording import session

ROOT = Path(__file__).parents[2]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digits' recorded config, with augmentation and a folder, in an empty working folder with a teacher in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits/teacher").mkdir(parents=True)
    torch.save(SmallCNN(32).state_dict(), tmp_path / "runs/digits/teacher/teacher.ckpt")
    settings = yaml.safe_load((ROOT / "configs/digits/recorded.yaml").read_text())
    settings["model"]["init_args"]["teacher"]["init_args"] |= {"path": "recording", "views": 3}
    crop = {"class_path": "torchvision.transforms.v2.RandomCrop", "init_args": {"size": 8, "padding": 1}}
    settings["data"]["init_args"]["augment"] = [crop]
    settings["trainer"]["callbacks"] = str(ROOT / "configs/checkpoints.yaml")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", "config.yaml", *QUIET]


def test_records_and_leaves_nothing_else(config: list[str], tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    main(["record", *config])
    assert {path.name for path in tmp_path.iterdir()} - before == {"recording"}
    assert not (tmp_path / "runs/digits/recorded").exists()
    shards = list((tmp_path / "recording").glob("*.npy"))
    assert len(shards) == 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a recording session tells."""
    lines: list[str] = []
    monkeypatch.setattr(session, "rank_zero_info", lines.append)
    return lines


def test_a_fit_reads_what_was_recorded(config: list[str], tmp_path: Path, said: list[str]) -> None:
    main(["record", *config])
    said.clear()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "recording").glob("*.npy")}
    main(["fit", *config, "--trainer.max_epochs=2"])
    assert said == ["Reading the recorded teacher in recording: 100 samples, 3 views of each."]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "recording").glob("*.npy")} == before


def test_a_fit_records_what_is_missing(config: list[str], tmp_path: Path, said: list[str]) -> None:
    main(["fit", *config, "--trainer.max_epochs=1"])
    assert said[0].startswith("Recorded the teacher in recording: 100 samples, 3 views of each, 0.0 MB")
    assert list((tmp_path / "recording").glob("*.npy"))


@pytest.mark.parametrize("teacher", ["frozen", "no path"])
def test_other_teachers_are_refused(config: list[str], tmp_path: Path, teacher: str) -> None:
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    arguments = settings["model"]["init_args"]["teacher"]["init_args"]
    if teacher == "frozen":
        settings["model"]["init_args"]["teacher"] = arguments["model"]
    else:
        del arguments["path"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match=r"the config's teacher must be a lit_distill.RecordedTeacher with a path"):
        main(["record", *config])


@pytest.mark.parametrize(
    ("option", "message"),
    [("fast_dev_run=true", "fast_dev_run records nothing"), ("limit_train_batches=0", "nothing was recorded")],
)
def test_a_trainer_that_reads_no_batches_is_no_success(config: list[str], option: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["record", *config, f"--trainer.{option}"])
