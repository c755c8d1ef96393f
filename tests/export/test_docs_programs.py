"""The programs of docs/export.md run, each on a file for its target."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lit_distill.export import export
from lit_distill.export.aoti import compiler
from lit_distill.export.targets import TARGETS
from tests.export.networks import loader, trained

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
FILES = {"onnx": "student.onnx", "executorch": "student.pte", "cortex-m": "student-m.pte"}


def program(target: str) -> str:
    """Return the page's program that opens a target's file."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    sign = {"aoti": "aoti_load_package", "torch_export": "torch.export.load"}.get(target, f'"{FILES.get(target)}.json"')
    (found,) = [block for block in blocks if sign in block]
    return str(found)


@pytest.mark.parametrize("target", [pytest.param(name, marks=pytest.mark.slow) for name in TARGETS])
def test_the_program_for_a_target_runs(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in TARGETS[target].packages:
        pytest.importorskip(package, reason=f"needs lit-distill[{TARGETS[target].extra}]")
    if target == "aoti" and compiler() is None:
        pytest.skip("needs a C++ compiler")
    code = program(target)
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"precision": "int8", "calibration": loader()} if target == "cortex-m" else {}
    output = FILES.get(target, "student.pt2")
    export(trained(), target, output, validation=loader(20), classes=["ant", "bee", "cat"], **options)
    capsys.readouterr()
    exec(compile(code, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert ("cortex_m::" in said) if target == "cortex-m" else said.strip() in ("ant", "bee", "cat")
