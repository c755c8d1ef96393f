"""Every method, as its config names it: a tiny fit, and what has to hold after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.transforms.functional import to_pil_image

from lit_distill.cli.command import main
from lit_distill.cli.methods import instantiate, model_settings
from lit_distill.models import resnet8

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = [
    f"{folder}/{path.stem}"
    for folder in ("methods", "recipes")
    for path in sorted((CONFIGS / folder).glob("*.yaml"))
    if path.stem != "base"
]
# A fit takes seconds: one on logits and one on features run at every change, the others with the slow tests.
FITS = [m if m in ("methods/dkd", "methods/fitnets") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
LIGHTER = re.compile(r"\bresnet(20|56|110)\b")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher where the configs look for it, and a few images."""
    folder = tmp_path_factory.mktemp("methods")
    generator = torch.Generator().manual_seed(0)
    for index in range(48):
        path = folder / "images" / "train" / f"class{index % 10}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)).save(path)
    (folder / "runs/cifar10/teacher").mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(resnet8().state_dict(), folder / "runs/cifar10/teacher/teacher.ckpt")
    return folder


def command(folder: Path) -> list[str]:
    return [
        "fit",
        f"--config={folder / 'base.yaml'}",
        f"--config={folder / 'overlay.yaml'}",
        "--config=configs/cifar10/images.yaml",
        "--data.root=images",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=3",
        "--trainer.limit_val_batches=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={folder}",
    ]


def save_teachers(spec: Any) -> None:
    """Leave a checkpoint with random weights wherever a config loads one."""
    if isinstance(spec, dict):
        if str(spec.get("class_path")).rpartition(".")[2] == "load":
            path = Path(spec["init_args"]["checkpoint"])
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(instantiate(spec["init_args"]["model"]).state_dict(), path)
        for value in spec.values():
            save_teachers(value)
    if isinstance(spec, list):
        for value in spec:
            save_teachers(value)


@pytest.mark.parametrize("method", FITS)
def test_fits_and_saves_a_student_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(home)
    base, over = (LIGHTER.sub("resnet8", (CONFIGS / f"{name}.yaml").read_text()) for name in ("methods/base", method))
    for name, text in (("base", base), ("overlay", over)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("../checkpoints", str(CONFIGS / "checkpoints")))
    settings = model_settings(yaml.safe_load(base), yaml.safe_load(over))
    save_teachers(settings)
    main(command(tmp_path))
    (saved,) = tmp_path.rglob("last.ckpt")
    weights = torch.load(saved, weights_only=True)["state_dict"]
    student = instantiate(settings["student"])
    student.load_state_dict({k.removeprefix("student."): v for k, v in weights.items() if k.startswith("student.")})
    assert all(torch.isfinite(value.float()).all() for value in weights.values())


@pytest.mark.parametrize("method", METHODS)
def test_config_is_short_and_names_its_source(method: str) -> None:
    text = (CONFIGS / f"{method}.yaml").read_text()
    first, source, *_ = text.splitlines()
    assert first == f"# lit-distill fit -c configs/methods/base.yaml -c configs/{method}.yaml"
    assert source.startswith("# ")
    assert any(f"{year}" in text for year in range(2014, 2027))
    assert len(text.splitlines()) <= 32
