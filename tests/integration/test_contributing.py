"""The example in CONTRIBUTING.md, word for word: its files, its command and its test."""

from __future__ import annotations

import importlib
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lit_distill.cli.command import main
from lit_distill.models import SmallCNN

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's files, and a teacher where its config looks for one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("my_methods", "test_my_methods")
    for name, code in zip(names, blocks("python"), strict=True):
        Path(f"{name}.py").write_text(code)
    (config,) = blocks("yaml")
    Path("similarity.yaml").write_text(config)
    teacher = Path("runs/digits/teacher/teacher.ckpt")
    teacher.parent.mkdir(parents=True)
    torch.save(SmallCNN(width=32).state_dict(), teacher)
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_method_trains(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (command,) = (line for block in blocks("bash") for line in block.splitlines() if "similarity.yaml" in line)
    words = shlex.split(command)
    with caplog.at_level(logging.INFO):
        main([*words[words.index("fit") :], "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    pair = "stage3 [16, 4, 4] -> stage3 [64, 4, 4]"
    assert pair in caplog.text
    assert f"`{pair}`" in PAGE


def test_its_tests_pass(folder: Path) -> None:
    module = importlib.import_module("test_my_methods")
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
