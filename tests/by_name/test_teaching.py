"""What of the teacher is trained first: found out from what it tells rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_distill.by_name import fitting
from lit_distill.by_name.request import Request
from tests.by_name.folders import make_folder

NETS = """
import torch
from torch import nn


class Brightest(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order, self.scale = order, nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * images.mean((2, 3))[:, self.order]


def knows():
    return Brightest([2, 1, 0])


def other_order():
    return Brightest([0, 2, 1])


def two():
    return Brightest([0, 1])
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    make_folder(tmp_path / "images")
    (tmp_path / "colour_nets.py").write_text(NETS)
    return tmp_path


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("colour_nets.knows", "its 3 classes are the folder's: 29 of 29 images are told rightly: not trained"),
        (
            "colour_nets.other_order",
            "as many classes as the folder, but tells 0 of 29 images rightly: it is trained first, as",
        ),
        ("timm:test_resnet@random", "it starts from random weights: it is trained first, as a whole"),
    ],
)
def test_a_teacher_is_trained_unless_it_tells_the_images_apart(
    place: Path, capsys: pytest.CaptureFixture[str], teacher: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        fitting.run_request(Request(teacher, "lit_distill.models.resnet8", "images", image_size=16), dry_run=True)
    assert said in capsys.readouterr().out
    assert (not list(Path("runs").rglob("teacher.yaml"))) == ("knows" in teacher)


def test_a_network_whose_classes_cannot_be_changed_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="student: the Brightest has no layer that ends in its 2 classes"):
        fitting.run_request(Request("colour_nets.knows", "colour_nets.two", "images"), dry_run=True)


def test_a_backbone_without_a_classifier_gets_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "backbones.py").write_text(
        "import timm\n\n\ndef net(num_classes=0):\n    return timm.create_model('test_resnet', num_classes=num_classes)\n"
    )
    request = Request("backbones.net", "lit_distill.models.resnet8", "images", image_size=32)
    with pytest.raises(SystemExit):
        fitting.run_request(request, dry_run=True)
    assert "it has no classifier of its own, and the folder has 3: it is trained first" in capsys.readouterr().out


def test_an_absent_package_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match="teacher: names of timm: need a package: pip install timm"):
        fitting.run_request(Request("timm:resnet50", "timm:resnet18", "images"))
