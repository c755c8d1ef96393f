"""Files for microcontrollers: lowered and read back; nothing here runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_distill.export import DisagreementError, export, load_exported
from tests.export.networks import images, loader, trained

pytestmark = pytest.mark.slow
for name in ("executorch", "torchao", "tosa_serializer"):
    pytest.importorskip(name, reason="needs lit-distill[cortex-m]")


class WithNorm(nn.Module):
    """Ends with an operator that CMSIS-NN lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained()

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self.network(x))


def test_a_file_says_its_operators_and_that_its_graph_was_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = trained()
    path = tmp_path / "a.pte"
    result = export(student, "cortex-m", path, precision="int8", calibration=loader(), validation=loader(20))
    said = json.loads(Path(f"{path}.json").read_text())
    assert said["others"] == []
    assert said["operators"]["cortex_m::quantized_conv2d"] == 2
    assert said["operators"]["cortex_m::quantized_linear"] == 1
    assert said["working_memory"] > 0
    assert said["compared"] == "quantised graph before lowering"
    assert result.bytes == path.stat().st_size
    assert result.verification.milliseconds is None
    assert result.verification.agreement >= 0.95
    assert result.verification.difference > 0
    words = str(result)
    assert "its quantised graph before lowering compared on 20 validation samples" in words
    assert "its own logits were not compared" in words
    with pytest.raises(ValueError, match="nothing here runs it"):
        load_exported(path).run(images(1)[0])


def test_operators_without_a_kernel_are_named(tmp_path: Path) -> None:
    result = export(
        WithNorm(), "cortex-m", tmp_path / "a.pte", precision="int8", calibration=loader(), validation=loader(20)
    )
    others = result.about["others"]
    assert others
    assert not any(name.startswith("cortex_m") for name in others)
    assert f"the others: {', '.join(others)}" in str(result)


def test_a_graph_of_wrong_ranges_is_refused(tmp_path: Path) -> None:
    inputs, labels = images(40)
    with pytest.raises(DisagreementError, match="int8 quantised graph before lowering agrees with the student in"):
        export(
            trained(),
            "cortex-m",
            tmp_path / "a.pte",
            precision="int8",
            calibration=[(inputs * 1e-4, labels)],
            validation=[(inputs, labels)],
        )
    assert list(tmp_path.iterdir()) == []
