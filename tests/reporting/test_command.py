"""``lit-distill report`` on configs and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import lit_distill
from lit_distill.cli.command import main as command_line
from lit_distill.models import SmallCNN
from lit_distill.modules import SupervisedModule
from lit_distill.reporting import main
from lit_distill.reporting.control import control_config

QUICK = ["--timing_seconds", "0.001", "--batch_size", "2"]
TEACHER = {"class_path": "load", "init_args": {"model": "SmallCNN", "checkpoint": "teacher.pth"}}
CONFIG = {
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 1,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": "run",
        "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"dirpath": "run", "filename": "student"}}],
    },
    "model": {
        "class_path": "LogitDistillation",
        "init_args": {"student": {"class_path": "SmallCNN", "init_args": {"width": 4}}, "teacher": TEACHER},
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 128}},
}


def here(words: list[str]) -> int:
    """Run a training in this process."""
    command_line(words)
    return 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, its teacher, and weights for its student."""
    monkeypatch.chdir(tmp_path)
    torch.save(SmallCNN().state_dict(), "teacher.pth")
    torch.save(SmallCNN(4).state_dict(), "student.pth")
    torch.save(SmallCNN(4).state_dict(), "control.pth")
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.mark.slow
def test_the_control_is_trained_once_and_the_files_are_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[list[str]] = []

    def launch(words: list[str]) -> int:
        ran.append(words)
        return here(words)

    words = ["--config", "config.yaml", "--ckpt_path", "student.pth", *QUICK]
    main(words, launch)
    assert len(ran) == 1
    assert capsys.readouterr().out.count("student to teacher") == 1
    content = json.loads(Path("run/report/report.json").read_text())
    student = lit_distill.load(SmallCNN(4), "student.pth").eval()
    data = lit_distill.data.Digits()
    data.setup("test")
    right = sum(float((student(x).argmax(1) == y).sum()) for x, y in data.test_dataloader())
    assert content["networks"][0]["metrics"]["accuracy"] == pytest.approx(right / content["samples"])
    assert not Path("run/student.ckpt").exists()  # which the config's own ModelCheckpoint writes
    control = torch.load("run/report/no_teacher/last.ckpt", weights_only=True)["lit_distill"]
    assert list(control["criteria"]) == ["hard"]

    main(words, launch)
    assert len(ran) == 1
    assert "trained before" in capsys.readouterr().out
    again = json.loads(Path("run/report/report.json").read_text())
    for one, other in zip(content["networks"], again["networks"], strict=True):
        assert one["metrics"] == other["metrics"]
    with pytest.raises(SystemExit):
        main([*words, "--data.train_size", "50"], launch)
    assert "data.init_args.train_size: null, now 50" in capsys.readouterr().err


@pytest.mark.slow
def test_a_control_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", "config.yaml", "--ckpt_path", "student.pth", "--control", "control.pth", "--part", "val"]
    main([*words, "--folder", "elsewhere", *QUICK])
    assert "validation data of Digits; the control is control.pth" in capsys.readouterr().out
    assert Path("elsewhere/report.md").is_file()
    assert not Path("run").exists()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main(["--config", "config.yaml", "--control", "control.pth", *QUICK, *words])
    assert not Path("run/report/report.json").exists()
    return capsys.readouterr().err


@pytest.mark.slow
def test_what_cannot_be_reported_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ["--ckpt_path", "student.pth"]
    assert "there is no checkpoint student.pht" in refused(capsys, "--ckpt_path", "student.pht")
    message = refused(capsys, "--ckpt_path", "teacher.pth")
    assert "ckpt_path is no checkpoint of the config's student: teacher.pth does not fit SmallCNN" in message
    message = refused(capsys, *good, "--control", "teacher.pth")
    assert "control is no checkpoint of the config's student: teacher.pth does not fit SmallCNN" in message
    assert "no checkpoint control.pht" in refused(capsys, *good, "--control", "control.pht")
    assert "whole number" in refused(capsys, *good, "--batch_size", "0")
    assert "arguments are required: --ckpt_path" in refused(capsys)


def test_a_checkpoint_of_another_distillation(
    place: Path, capsys: pytest.CaptureFixture[str], quick_trainer: object
) -> None:
    module = lit_distill.LogitDistillation(
        SmallCNN(4), SmallCNN(), {"mse": lit_distill.criteria.LogitMSE()}, {"mse": 1.0}
    )
    data = lit_distill.data.Digits()
    trainer = quick_trainer(limit_train_batches=1, limit_val_batches=0)  # type: ignore[operator]
    trainer.fit(module, data)
    trainer.save_checkpoint("other.ckpt")
    assert "other.ckpt" in refused(capsys, "--ckpt_path", "other.ckpt")


def test_a_config_without_a_teacher(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = {**CONFIG, "model": {"class_path": "SupervisedModule", "init_args": {"model": "SmallCNN"}}}
    Path("config.yaml").write_text(yaml.safe_dump(alone))
    assert "SupervisedModule has no teacher" in refused(capsys, "--ckpt_path", "teacher.pth")


def test_the_control_keeps_all_but_the_teacher() -> None:
    arguments = {
        "student": "S", "teacher": "T", "criteria": {"soft": "SoftTarget"}, "weights": {"soft": 1.0}, "task": "binary",
        "batch_format": {"class_path": "BatchFormat"}, "fast": True, "metrics": None, "lr_interval": "step",
    }  # fmt: skip
    config = {
        "seed_everything": 3,
        "trainer": {
            "max_epochs": 5,
            "logger": {"class_path": "CSVLogger"},
            "callbacks": ["ModelCheckpoint", "EarlyStopping"],
        },
        "model": {"class_path": "lit_distill.LogitDistillation", "init_args": arguments},
        "data": "D",
        "optimizer": "O",
        "ckpt_path": None,
    }
    made = control_config(config)
    assert made["model"]["class_path"] == "SupervisedModule"
    assert made["model"]["init_args"] == {
        "model": "S", "task": "binary", "batch_format": {"class_path": "BatchFormat"}, "fast": True, "lr_interval": "step",
    }  # fmt: skip
    assert made["trainer"] == {
        "max_epochs": 5, "logger": None, "enable_checkpointing": None, "callbacks": ["EarlyStopping"],
    }  # fmt: skip
    assert (made["seed_everything"], made["data"], made["optimizer"]) == (3, "D", "O")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("MutualDistillation", {"peers": []}, "no control can be made of the config of a MutualDistillation"),
        ("MultiTaskDistillation", {"student": "S"}, "--control FILE"),
        ("LogitDistillation", {"student": "S", "task": "embedding"}, "no loss on labels"),
    ],
)
def test_configs_without_a_control(kind: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        control_config({"model": {"class_path": kind, "init_args": arguments}})


def test_the_control_is_a_supervised_module() -> None:
    taken = SupervisedModule.__init__.__annotations__
    assert set(control_config.__globals__["_KEPT"]) <= set(taken)
