"""What is wrong with names, folder and options is said before anything is trained, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_distill.cli.command import main
from lit_distill.models import resnet8
from tests.by_name.folders import make_folder

NET = "lit_distill.models.resnet8@random"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "images", images=6)
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\n\n\n"
        "def maps():\n    return nn.Conv2d(3, 4, 3)\n\n\n"
        "def grey():\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], **asked: Any) -> str:
    given = {"teacher": NET, "student": NET, "data": "images", **asked}
    with pytest.raises(SystemExit) as ended:
        main(["fit", *(f"--{name}={value}" for name, value in given.items())])
    assert ended.value.code == 2
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.ckpt"))
    line = capsys.readouterr().err.strip()
    assert line.startswith("lit-distill: ")
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"student": "lit_distill.models.resnet9"},
            "student: 'lit_distill.models.resnet9' cannot be imported: .*resnet8",
        ),
        ({"teacher": "timm:resnet5O"}, "teacher: timm has no model 'resnet5O'. Did you mean 'resnet50'?"),
        ({"teacher": "torchvision:resnet19"}, "torchvision has no classifier 'resnet19'. Did you mean 'resnet1"),
        ({"teacher": "resnet50"}, "did you mean timm:resnet50 or torchvision:resnet50?"),
        ({"teacher": "tim:resnet50"}, "there is no source 'tim'. Did you mean 'timm'? Write timm:NAME,"),
        ({"teacher": "timm:resnet18@randon"}, "'randon' is no file, and not 'random'. Did you mean 'random'?"),
        ({"teacher": "lit_distill.models.resnet8@none.pth"}, "there is no file none.pth"),
        ({"teacher": "odd_nets.maps"}, "teacher: the Conv2d is no classifier of images: it returns \\[2, 4, 14, 14\\]"),
        ({"student": "odd_nets.grey"}, "student: odd_nets.grey takes no images of 3 channels, of any size tried"),
        ({"data": "imagse"}, "there is no folder imagse"),
        ({"teacher_training": "none"}, "resnet8@random has 10 classes, and the folder 3: its head has to be trained"),
        ({"teacher_training": "heads"}, "teacher_training must be one of 'head', 'all', 'none'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"trainer.max_epochs": 3}, "trainer.max_epochs is set by epochs"),
        ({"trainr.accelerator": "cpu"}, "no option 'trainr.accelerator'. Did you mean 'trainer'?"),
        ({"epoch": 3}, "no option '--epoch'. Did you mean '--epochs'?"),
        ({"config": "x.yaml"}, "--config does not go with --teacher and --student"),
        ({"trainer.acelerator": "cpu", "epochs": 1}, "link 'teacher' cannot run, and nothing was run: .*acelerator"),
    ],
)
def test_arguments(place: Path, capsys: pytest.CaptureFixture[str], asked: dict[str, Any], words: str) -> None:
    import re

    line = said(capsys, **asked)
    assert re.search(words.replace("?", "\\?"), line), line


def test_a_folder_of_one_class(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(place / "one", classes=1)
    assert "one has one class, 'blue': there is nothing to tell apart." in said(capsys, data="one")


def test_a_folder_without_classes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    assert "empty has no folders; a folder for each class is needed" in said(capsys, data="empty")
    (place / "images/blue/00.png").rename(place / "empty/00.png")
    assert "empty has images, and no folders of classes" in said(capsys, data="empty")


def test_an_empty_class(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "images/violet").mkdir()
    assert "has no images, or a class without any" in said(capsys)


def test_a_file_that_is_no_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "images/red/broken.jpg").write_text("no image")
    assert "images/red/broken.jpg is no image, or a broken one" in said(capsys)


def test_an_image_that_ends_early(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (place / "images/red/00.png").read_bytes()
    (place / "images/red/00.png").write_bytes(whole[: len(whole) // 2])
    assert "images/red/00.png is no image, or a broken one" in said(capsys)


def test_parts_of_other_names(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(place / "parts/training")
    make_folder(place / "parts/validation")
    assert "rename it to 'train' if it is one" in said(capsys, data="parts")


def test_a_checkpoint_that_does_not_fit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), "other.pth")
    assert "teacher: other.pth does not fit CifarResNet" in said(capsys, teacher="lit_distill.models.resnet8@other.pth")


def test_a_checkpoint_that_does_not_say_what_it_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(resnet8().state_dict(), "net.pth")
    assert "net.pth does not say which network it holds" in said(capsys, teacher="net.pth")


def test_weights_that_cannot_be_had(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    line = said(capsys, teacher="timm:resnet10t")
    assert "the pretrained weights of timm:resnet10t cannot be had" in line
    assert "write timm:resnet10t@FILE; timm:resnet10t@random starts from random weights" in line
