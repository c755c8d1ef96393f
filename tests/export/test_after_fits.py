"""Students of every kind of fit become files that compute what they compute."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

import lit_distill
from lit_distill.export import TARGETS
from tests.modules.test_plain_student import MODULES, _compiling, run

compiling = _compiling  # the fixture: compile without a compiler
KINDS = ("combined", "self", "moving average", "mutual", "multitask", "fast")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "executorch"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_computes_what_the_student_computes(
    quick_trainer: Callable[..., Trainer], tmp_path: Path, kind: str, target: str
) -> None:
    if target == "executorch" and (kind not in ("self", "fast") or importlib.util.find_spec("executorch") is None):
        pytest.skip("needs lit-distill[executorch]" if kind in ("self", "fast") else "onnx shows it for this kind")
    module = MODULES[kind]()
    run(quick_trainer(max_epochs=1), module)
    student = next(module.student.children()) if kind == "mutual" else module.student
    assert isinstance(student, nn.Module)
    images = torch.randn(3, 2, 6, 6)
    heads = {"a": "4"} if kind == "multitask" else None
    task = {"a": "multiclass"} if kind == "multitask" else "multiclass"
    file = tmp_path / f"student{TARGETS[target].suffix}"
    result = lit_distill.export(student, target, file, example=images[:1], dynamic=["batch"], heads=heads, task=task)
    with torch.no_grad():
        expected = student.eval()(images)
    torch.testing.assert_close(result.exported.run(images), expected, atol=1e-4, rtol=1e-4)
    assert result.exported.path.stat().st_size < 100_000
