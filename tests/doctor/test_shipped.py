"""No shipped config, and no criterion of the library, has a bug that the doctor sees."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn
from torch.utils.data import Dataset

from lit_distill import DistillationModule, Outputs
from lit_distill.cli.bare_names import bare_names, full_path, imported
from lit_distill.data.base import ImageDataModule
from lit_distill.doctor import main, report
from lit_distill.doctor.examining import examine_criterion
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.subject import subject
from tests.criteria.all_cases import CASES
from tests.criteria.cases import Case, built, example

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Two methods' configs are examined at every change, one on logits and one with layers; the others with the slow tests.
METHODS = [
    pytest.param(path, id=path.stem, marks=() if path.stem in ("dkd", "fitnets") else pytest.mark.slow)
    for folder in ("methods", "recipes")
    for path in sorted((CONFIGS / folder).glob("*.yaml"))
]
# Chains have links in the model's place, and what only changes the data has no model.
WHOLE = [
    path
    for folder in ("digits", "cifar10")
    for path in sorted((CONFIGS / folder).glob("*.yaml"))
    if "model" in yaml.safe_load(path.read_text())
]


class _Noise(Dataset[Any]):
    def __init__(self, number: int, size: int) -> None:
        self.targets = [index % 10 for index in range(number)]
        self.images = torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], self.targets[index]


class NoiseImages(ImageDataModule):
    """Images of noise in place of CIFAR-10."""

    def __init__(
        self, root: str = "data", in_memory: bool = False, num_workers: int | None = None, size: int = 8
    ) -> None:
        super().__init__(batch_size=8, num_workers=0)
        self.size = size

    def open_training(self) -> Any:
        return _Noise(48, self.size), _Noise(16, self.size)

    def open_test(self) -> Any:
        return _Noise(16, self.size)


def small(path: Path) -> str:
    """The config with small networks and images of noise."""
    text = re.sub(r"resnet(20|32|44|56|110)\b", "resnet8", path.read_text())
    text = text.replace("../checkpoints", str(CONFIGS / "checkpoints"))
    return re.sub(r"\b(data|class_path): (CIFAR10|ImageFolder)\b", r"\1: tests.doctor.test_shipped.NoiseImages", text)


def networks(node: Any) -> Iterator[dict[str, Any]]:
    """Every ``load`` of a config: a network and the file that holds its weights."""
    if isinstance(node, dict):
        if node.get("class_path") == "load":
            yield node["init_args"]
        for value in node.values():
            yield from networks(value)
    elif isinstance(node, list):
        for value in node:
            yield from networks(value)


def save_teachers(config: Any) -> None:
    """Save weights at random where a config looks for a teacher's."""
    for given in networks(config):
        file = Path(given["checkpoint"])
        model = given["model"] if isinstance(given["model"], dict) else {"class_path": given["model"]}
        network = imported(full_path(nn.Module, model["class_path"]))(**model.get("init_args", {}))
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), file)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_finds_no_bug_in_a_shipped_config(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    below = [CONFIGS / "cifar10/logit.yaml"] if path.stem == "fast" else []  # laid over a whole one
    configs = []
    for number, source in enumerate([*below, path]):
        text = small(source)
        save_teachers(yaml.safe_load(text))
        configs.append(tmp_path / f"{number}.yaml")
        configs[-1].write_text(text)
    before = set(tmp_path.rglob("*"))
    code = main([word for config in configs for word in ("--config", str(config))] + ["--steps", "2"])
    told = capsys.readouterr().out
    assert code == 0, told
    assert "note " not in told
    assert set(tmp_path.rglob("*")) == before  # nothing is left behind


@pytest.mark.parametrize("path", METHODS)
def test_finds_no_bug_in_a_methods_config(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Read without the command's parser, which would take most of the time.
    monkeypatch.chdir(tmp_path)
    base, over = (yaml.safe_load(small(source))["model"] for source in (CONFIGS / "methods/base.yaml", path))
    settings = {**base, "init_args": {**base["init_args"], **over.get("init_args", over)}}
    save_teachers(settings)
    parser = ArgumentParser()
    parser.add_subclass_arguments(DistillationModule, "model")
    with bare_names():
        module = parser.instantiate_classes(parser.parse_object({"model": settings})).model
    size = 32 if "VisionTransformer" in str(settings) else 8
    found = report(module, NoiseImages(size=size), steps=2)
    assert found.bugs == []
    assert found.notes == []
    assert found.steps == 2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_finds_no_bug_in_a_criterion_of_the_library(case: Case) -> None:
    torch.manual_seed(1)
    fresh = copy.deepcopy(case.make())
    student, teacher, target = example(case, batch=8, dtype=torch.float32)
    examined = subject(case.name, built(case, torch.float32), fresh, Sample(student, teacher, target), "16-mixed")
    notes: list[str] = []
    found = examine_criterion(examined, notes)
    assert [finding for findings in found.values() for finding in findings if finding.severity == "bug"] == []
    assert notes == []


LOGITS = [case for case in CASES if case.kind == "logits"]
# Every third with dense logits too: one formula after another takes them the same way.
MASKED = [(case, (6, 7, 12)) for case in LOGITS] + [(case, (2, 12, 5, 6)) for case in LOGITS[::3]]


@pytest.mark.parametrize(("case", "shape"), MASKED, ids=[f"{case.name}-{len(shape)}d" for case, shape in MASKED])
def test_finds_no_bug_on_masked_logits(case: Case, shape: tuple[int, ...]) -> None:
    spots = shape[:1] + shape[2:] if len(shape) == 4 else shape[:-1]
    mask = torch.rand(spots) < 0.7
    mask[:, 0] = True
    student, teacher = (Outputs(torch.randn(shape), {}, mask) for _ in range(2))
    examined = subject(case.name, case.make(), case.make(), Sample(student, teacher, torch.randint(0, 12, spots)))
    notes: list[str] = []
    found = examine_criterion(examined, notes)
    assert [finding for findings in found.values() for finding in findings if finding.severity == "bug"] == []
    assert notes == []
    assert {"mask", "length"} <= found.keys()
