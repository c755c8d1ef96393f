"""Networks by name: what each kind of name makes, with which weights and classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_distill.cli.command import main
from lit_distill.models import named_model, resnet8
from lit_distill.models.named import read_name
from tests.by_name.folders import make_folder

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        out = network.eval()(images)
    return out if isinstance(out, Tensor) else out.logits


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("classes", [None, 4])
@pytest.mark.parametrize("name", ["timm:test_resnet@random", "torchvision:squeezenet1_1@random"])
def test_random_weights(name: str, classes: int | None) -> None:
    images = torch.zeros(1, 3, 64, 64)
    assert logits(named_model(name, classes), images).shape == (1, classes or 1000)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_resnet.r160_in1k"])
def test_pretrained_weights_are_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, asked = timm.create_model, {}

    def create_model(model: str, **options: Any) -> nn.Module:
        asked[model] = dict(options)
        return make(model, **{**options, "pretrained": False})

    monkeypatch.setattr(timm, "create_model", create_model)
    assert logits(named_model(name, 3)).shape == (2, 3)
    assert asked == {name.removeprefix("timm:"): {"pretrained": True, "num_classes": 3}}


def test_torchvisions_weights_keep_their_body_and_get_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    own = models.get_model("mobilenet_v3_small", weights=None)
    monkeypatch.setattr(models, "get_model", lambda name, weights: own if weights == "IMAGENET1K_V1" else None)
    made = named_model("torchvision:mobilenet_v3_small@IMAGENET1K_V1", 3)
    assert made is own
    assert made.classifier[3].out_features == 3


def test_a_checkpoint_of_other_classes_fills_the_body(here: Path) -> None:
    source = resnet8(7)
    torch.save({"state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, here / "net.ckpt")
    whole = named_model("lit_distill.models.resnet8@net.ckpt")
    assert torch.equal(logits(whole), logits(source))
    made = named_model("lit_distill.models.resnet8@net.ckpt", 4)
    assert logits(made).shape == (2, 4)
    for name, value in source.state_dict().items():
        assert name.startswith("linear") or torch.equal(value, made.state_dict()[name])


def test_one_of_two_networks_in_a_checkpoint(here: Path) -> None:
    student, teacher = resnet8(7), resnet8(7)
    pair = {
        f"{owner}.{k}": v for owner, net in (("net", student), ("big", teacher)) for k, v in net.state_dict().items()
    }
    torch.save({"state_dict": pair}, here / "both.ckpt")
    assert torch.equal(logits(named_model("lit_distill.models.resnet8@both.ckpt#big")), logits(teacher))
    with pytest.raises(ValueError, match="2 networks of this architecture"):
        named_model("lit_distill.models.resnet8@both.ckpt")


def test_safetensors_and_a_timm_name(here: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=5)
    save_file(source.state_dict(), here / "model.safetensors")
    assert torch.equal(logits(named_model("timm:test_resnet@model.safetensors")), logits(source))


def test_the_student_of_an_earlier_fit_by_name(here: Path) -> None:
    make_folder(here / "images", images=5)
    network = {"class_path": "named_model", "init_args": {"name": "timm:test_resnet@random", "num_classes": 3}}
    import yaml

    config = {
        "model": {"class_path": "SupervisedModule", "init_args": {"model": network}},
        "data": {"class_path": "ImageFolder", "init_args": {"root": "images", "num_workers": 0, "batch_size": 4}},
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"dirpath": ".", "filename": "last"}}],
        },
    }
    (here / "fit.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "fit.yaml"])
    trained = torch.load(here / "last.ckpt", weights_only=True)["state_dict"]
    made = named_model("last.ckpt")
    assert all(torch.equal(value, trained[f"student.{name}"]) for name, value in made.state_dict().items())
    name = read_name("teacher", "last.ckpt")
    assert (name.architecture, name.start, name.inside) == ("timm:test_resnet@random", "file", "student")


def test_a_checkpoint_does_not_choose_what_code_runs(here: Path) -> None:
    (here / "bad_nets.py").write_text("raise SystemExit('ran')")
    network = {"class_path": "lit_distill.models.named_model", "init_args": {"name": "bad_nets.make"}}
    torch.save({"state_dict": resnet8().state_dict(), "hyper_parameters": {"model": network}}, here / "bad.ckpt")
    with pytest.raises(ValueError, match="bad.ckpt says that it holds bad_nets.make, .* write bad_nets.make@bad.ckpt"):
        named_model("bad.ckpt")


def test_a_function_of_ones_own_with_and_without_classes(here: Path) -> None:
    (here / "own_nets.py").write_text(
        "from lit_distill.models import resnet8\n\n\n"
        "def with_classes(n_classes=2):\n    return resnet8(n_classes)\n\n\n"
        "def without():\n    return resnet8(2)\n\n\n"
        "def failing():\n    raise KeyError('no such width')\n"
    )
    assert [logits(named_model(f"own_nets.{one}", 5)).shape[1] for one in ("with_classes", "without")] == [5, 5]
    with pytest.raises(ValueError, match="own_nets.failing.. could not make a network: 'no such width'"):
        named_model("own_nets.failing")


@pytest.fixture
def hub_folder(here: Path) -> Callable[[bool], str]:
    """A tiny Hugging Face classifier of six classes in a folder, with an image processor or not."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    def make(processor: bool) -> str:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        network = ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=6, **sizes))
        network.save_pretrained(here / "vit")
        if processor:
            size = {"height": 32, "width": 32}
            ViTImageProcessor(size=size, image_mean=[0.1] * 3, image_std=[0.2] * 3).save_pretrained(here / "vit")
        return f"hf:{here / 'vit'}"

    return make


def test_hugging_faces_folders(hub_folder: Callable[[bool], str]) -> None:
    text = hub_folder(True)
    name = read_name("teacher", text)
    whole = name.make()
    described = name.describe(whole)
    assert (described.size, described.mean, described.std) == ((32, 32), (0.1,) * 3, (0.2,) * 3)
    made = named_model(text, 4)
    assert (logits(whole).shape, logits(made).shape) == ((2, 6), (2, 4))
    key = "vit.embeddings.cls_token"
    assert torch.equal(whole.state_dict()[key], made.state_dict()[key])
    assert not torch.equal(whole.state_dict()[key], named_model(f"{text}@random", 4).state_dict()[key])


def test_a_folder_of_hugging_face_without_a_processor(hub_folder: Callable[[bool], str]) -> None:
    name = read_name("teacher", hub_folder(False))
    assert name.describe(name.make()).size == (32, 32)


def test_what_torchvision_and_timm_say_of_their_images() -> None:
    inception = read_name("student", "torchvision:inception_v3@random")
    said = inception.describe(nn.Identity())  # of its weights, whatever the network
    assert (said.size, said.mean) == ((299, 299), (0.485, 0.456, 0.406))
    small = read_name("student", "timm:test_resnet@random")
    assert small.describe(small.make(2)).size == (160, 160)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(f"timm:{name}" for name in ("mobilenetv3_small_100", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")),
        *(f"timm:{name}" for name in ("convnext_atto", "mixer_s32_224", "deit_tiny_distilled_patch16_224", "vgg11")),
        *(f"torchvision:{name}" for name in ("resnet18", "densenet121", "googlenet", "inception_v3", "vit_b_32")),
        *(f"torchvision:{name}" for name in ("efficientnet_b0", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_0")),
    ],
)
def test_every_family_runs_at_its_own_size_and_gets_a_new_head(name: str) -> None:
    from lit_distill.models.heads import with_classes

    found = read_name("student", f"{name}@random")
    made = found.make(5)
    size = found.describe(made).size
    assert size is not None
    images = torch.zeros(1, 3, *size)
    assert logits(made, images).shape == (1, 5)
    if "distilled" not in name:  # of its two heads, timm replaces both
        assert logits(with_classes(made, 3, size), images).shape == (1, 3)
