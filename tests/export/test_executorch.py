"""ExecuTorch programs, run in the runtime that phones have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.export import DisagreementError, export, load_exported
from lit_distill.models import resnet8
from tests.export.networks import images, loader, trained

pytestmark = pytest.mark.slow
for name in ("executorch", "torchao"):
    pytest.importorskip(
        name, reason="needs lit-distill[executorch]: a test of .pte files runs in ExecuTorch's own runtime"
    )


def share_off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest logit."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def test_a_float_file_is_its_student(tmp_path: Path) -> None:
    student = trained()
    result = export(student, "executorch", tmp_path / "a.pte", validation=loader(20))
    assert result.verification.within_rounding
    inputs, _ = images(5)
    with torch.no_grad():
        torch.testing.assert_close(result.exported.run(inputs), student(inputs), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            load_exported(result.exported.path).run(inputs), student(inputs), atol=1e-4, rtol=1e-4
        )
    with pytest.raises(ValueError, match="fails in ExecuTorch's runtime"):
        result.exported.call((torch.randn(1, 2, 7, 7),))
    assert result.exported.signature.largest is None


@pytest.mark.parametrize(("precision", "least", "most"), [("float32", 0.0, 1e-5), ("int8", 1e-5, 0.15)])
def test_a_file_of_any_batch_and_size(precision: Any, least: float, most: float, tmp_path: Path) -> None:
    student = trained()
    path = tmp_path / "a.pte"
    result = export(
        student,
        "executorch",
        path,
        precision=precision,
        calibration=loader(),
        validation=loader(140),
        dynamic=["batch", "size"],
    )
    assert result.exported.signature.shapes == ((None, 2, None, None),)
    assert result.verification.agreement >= 0.95
    again = load_exported(path)
    assert again.signature.largest == ((64, 2, 12, 12),)
    inputs, _ = images(130)  # more than the file takes at once
    for given in (inputs[:1], inputs, inputs.repeat(1, 1, 1, 2)[:7], torch.nn.functional.pad(inputs, (3, 3, 1, 0))):
        off = share_off(again.run(given), student(given))
        assert least <= off < most
    with pytest.raises(ValueError, match=r"a.pte takes input of at most \[2, 12, 12\] a sample, not \[2, 6, 13\]"):
        again.run(torch.randn(1, 2, 6, 13))


def test_a_residual_network_takes_a_third_of_the_bytes_in_int8(tmp_path: Path) -> None:
    student = resnet8(10).eval()
    inputs = torch.randn(4, 3, 32, 32)
    result = export(
        student,
        "executorch",
        tmp_path / "b.pte",
        precision="int8",
        calibration=[torch.randn(8, 3, 32, 32)],
        validation=[(inputs, torch.zeros(4, dtype=torch.long))],
        agreement=0.5,
    )
    assert result.bytes < 0.4 * result.student_bytes
    assert 0 < share_off(result.exported.run(inputs), student(inputs)) < 0.2


def test_int8_of_wrong_ranges_is_refused(tmp_path: Path) -> None:
    inputs, labels = images(40)
    with pytest.raises(DisagreementError, match="int8 file agrees with the student in"):
        export(
            trained(),
            "executorch",
            tmp_path / "a.pte",
            precision="int8",
            calibration=[(inputs * 1e-4, labels)],
            validation=[(inputs, labels)],
        )
    assert list(tmp_path.iterdir()) == []


class Unknown(nn.Module):
    """Uses an operator that ExecuTorch lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Partly(nn.Module):
    """Uses an operator that the runtime has for other arguments only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


@pytest.mark.parametrize(
    ("student", "words"),
    [(Unknown(), r"no operator for aten\.special_bessel_j0"), (Partly(), "fails in ExecuTorch's runtime")],
)
def test_an_operator_that_executorch_lacks_is_refused(student: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        export(student, "executorch", tmp_path / "a.pte", example=torch.randn(1, 4))
    assert list(tmp_path.iterdir()) == []
