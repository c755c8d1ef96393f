"""`lit-distill export`: from a config and a checkpoint to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lit_distill import (
    DistillationModule,
    EMATeacher,
    FeatureDistillation,
    LogitDistillation,
    MutualDistillation,
    SelfDistillation,
)
from lit_distill.cli.command import main
from lit_distill.criteria.sim_kd import SimKD, reuse_classifier
from lit_distill.export import export
from lit_distill.export.students import trained_student
from lit_distill.models import SmallCNN
from tests.export.networks import images, loader, net

CONFIG = """
trainer: {max_epochs: 1, logger: false, enable_progress_bar: false, accelerator: cpu, default_root_dir: .}
model:
  class_path: CombinedDistillation
  init_args:
    student: {class_path: SmallCNN, init_args: {width: 4}}
    teacher: {class_path: load, init_args: {model: SmallCNN, checkpoint: teacher.ckpt}}
    student_layer: stage3
    teacher_layer: stage3
data: {class_path: Digits, init_args: {train_size: 100}}
"""


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(words)
    return capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the teacher's accuracy")
def test_a_fit_of_a_config_is_exported_by_the_same_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fit.yaml").write_text(CONFIG)
    torch.save(SmallCNN().state_dict(), "teacher.ckpt")
    main(["fit", "--config", "fit.yaml"])
    (checkpoint,) = tmp_path.rglob("epoch*.ckpt")
    words = ["export", "--config", "fit.yaml", "--ckpt_path", str(checkpoint), "--target", "torch_export"]
    main(words)
    path = checkpoint.with_suffix(".pt2")
    said = json.loads(Path(f"{path}.json").read_text())
    assert said["measured"]["samples"] == 135  # the validation digits
    assert said["signature"]["shapes"] == [[1, 1, 8, 8]]
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    held = torch.export.load(path).state_dict
    assert {f"student.{name}" for name in SmallCNN(width=4).state_dict()} == set(held)
    assert all(torch.equal(value, state[name]) for name, value in held.items())
    for wrong, answer in {
        "--ckpt_path": ("nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
        "--target": ("onx", "no target 'onx'. Did you mean 'onnx'?"),
        "--precision": ("int4", "not 'int4'"),
        "--classifier": ("fc", "belongs to SimKD"),
        "--peer": ("0", "belongs to MutualDistillation"),
        "--dynamic": ("batches", "dynamic must be"),
    }.items():
        assert answer[1] in refused([*words, wrong, answer[0], "--output", "x.pt2"], capsys)
    assert not Path("x.pt2").exists()


def fitted(module: DistillationModule, make: Callable[..., Trainer], path: Path) -> Path:
    trainer = make()
    trainer.fit(module, loader(), loader())
    trainer.save_checkpoint(path / "a.ckpt")
    return path / "a.ckpt"


@pytest.mark.parametrize("kind", ["features", "average", "exits"])
def test_only_the_student_comes_out_of_a_checkpoint(
    kind: str, tmp_path: Path, quick_trainer: Callable[..., Trainer]
) -> None:
    make: dict[str, Callable[[], DistillationModule]] = {
        "features": lambda: FeatureDistillation(net(), net(8), "0", "0"),
        "average": lambda: LogitDistillation(net(), EMATeacher()),
        "exits": lambda: SelfDistillation(net(), "0"),
    }
    module = make[kind]()
    checkpoint = fitted(module, quick_trainer, tmp_path)
    again = trained_student(make[kind](), checkpoint)
    assert type(again) is nn.Sequential
    found, expected = again.state_dict(), module.student.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_one_of_the_peers_is_exported(tmp_path: Path, quick_trainer: Callable[..., Trainer]) -> None:
    module = MutualDistillation([net(), net(5)])
    checkpoint = fitted(module, quick_trainer, tmp_path)
    fresh = MutualDistillation([net(), net(5)])
    with pytest.raises(ValueError, match="2 networks were trained side by side; say which"):
        trained_student(fresh, checkpoint)
    found: Any = trained_student(fresh, checkpoint, peer=1)
    assert torch.equal(found[0].weight, module.student[1][0].weight)  # type: ignore[index]


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.body(x)).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_sim_kds_student_has_its_projector_and_the_teachers_classifier(
    tmp_path: Path, quick_trainer: Callable[..., Trainer]
) -> None:
    teacher = Teacher()

    def make() -> DistillationModule:
        return DistillationModule(net(), teacher, {"sim": SimKD("3", "body")}, {"sim": 1.0})

    module = make()
    checkpoint = fitted(module, quick_trainer, tmp_path)
    expected = reuse_classifier(module.student, module.criteria.criteria()["sim"], teacher.fc)  # type: ignore[arg-type]
    shipped = trained_student(make(), checkpoint)
    inputs, _ = images(6)
    with torch.no_grad():
        torch.testing.assert_close(shipped(inputs), expected(inputs))
    result = export(shipped, "torch_export", tmp_path / "a.pt2", validation=loader())
    torch.testing.assert_close(result.exported.run(inputs), expected(inputs).detach())
    with pytest.raises(ValueError, match="no layer 'head'"):
        trained_student(make(), checkpoint, classifier="head")
