"""Files of AOTInductor: compiled code, loaded and run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_distill.export import export, load_exported
from lit_distill.export.aoti import compiler
from tests.export.networks import images, loader, trained


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler, which AOTInductor calls")
def test_a_file_of_any_batch_is_its_student(tmp_path: Path) -> None:
    student = trained()
    path = tmp_path / "a.pt2"
    result = export(student, "aoti", path, validation=loader(20), dynamic=["batch"])
    assert result.verification.within_rounding
    for samples in (1, 7, 30):
        inputs, _ = images(samples)
        with torch.no_grad():
            torch.testing.assert_close(load_exported(path).run(inputs), student(inputs), atol=1e-4, rtol=1e-4)


def test_a_machine_without_a_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    with pytest.raises(ValueError, match=r"'aoti' needs a C\+\+ compiler, and none is found: install g\+\+"):
        export(nn.Linear(4, 3), "aoti", tmp_path / "a.pt2", example=torch.zeros(1, 4))
    assert list(tmp_path.iterdir()) == []


def test_aoti_has_no_int8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the target 'aoti' is written in float32, not 'int8'"):
        export(nn.Linear(4, 3), "aoti", tmp_path / "a.pt2", precision="int8", example=torch.zeros(1, 4))
