"""ONNX files, run in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.export import DisagreementError, export, load_exported
from tests.export.networks import images, loader, net, trained

pytestmark = pytest.mark.slow
for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason="needs lit-distill[onnx]")


def test_a_float_file_of_any_batch_and_size(tmp_path: Path) -> None:
    import onnx

    student = trained()
    path = tmp_path / "a.onnx"
    result = export(student, "onnx", path, validation=loader(20), dynamic=["batch", "size"])
    assert result.verification.within_rounding
    sizes = [size.dim_param or size.dim_value for size in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 2, "height", "width"]
    larger = torch.randn(3, 2, 10, 7)
    with torch.no_grad():
        torch.testing.assert_close(load_exported(path).call((larger,))[0], student(larger), atol=1e-4, rtol=1e-4)


def test_an_int8_file_computes_in_int8_and_agrees(tmp_path: Path) -> None:
    import onnx

    student = trained()
    path = tmp_path / "a.onnx"
    result = export(student, "onnx", path, precision="int8", calibration=loader(), validation=loader(40))
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("DequantizeLinear") >= 3
    stored = {one.name: one.data_type for one in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.INT8 in stored.values()
    found = result.verification
    assert found.agreement >= 0.95
    assert found.difference > 0
    assert found.kl_divergence is not None
    inputs, _ = images(10)
    expected = export(student, "onnx", tmp_path / "b.onnx", validation=loader()).exported.run(inputs)
    close = (result.exported.run(inputs) - expected).abs().max() / expected.abs().max()
    assert 0 < close < 0.1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json", "b.onnx", "b.onnx.json"]


def test_below_the_agreement_nothing_is_left(tmp_path: Path) -> None:
    inputs, labels = images(40)
    calibration = [(inputs * 1e-4, labels)]  # ranges that real inputs are far out of
    with pytest.raises(
        DisagreementError, match=r"int8 file agrees with the student in \d+\.\d% of 40 validation samples"
    ):
        export(
            trained(),
            "onnx",
            tmp_path / "a.onnx",
            precision="int8",
            calibration=calibration,
            validation=[(inputs, labels)],
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [({"validation": True}, "calibration data"), ({"calibration": True}, "compared on validation data")],
)
def test_int8_without_data_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {name: loader() for name in options}
    with pytest.raises(ValueError, match=words):
        export(net(), "onnx", tmp_path / "a.onnx", precision="int8", **given)
    assert list(tmp_path.iterdir()) == []


class Unknown(nn.Module):
    """Uses an operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no operator for prims\.bessel_j0"):
        export(Unknown(), "onnx", tmp_path / "a.onnx", example=torch.randn(1, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_100", "hugging_face"])
def test_students_of_other_libraries(name: str, tmp_path: Path) -> None:
    if name == "hugging_face":
        transformers = pytest.importorskip("transformers", reason="needs transformers")
        config = transformers.BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=3,
        )
        student = transformers.BertForSequenceClassification(config).eval()
        ids = torch.randint(50, (2, 8))
        example: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        given = (ids, torch.ones_like(ids))
        with torch.no_grad():
            expected = student(**example).logits
    else:
        timm = pytest.importorskip("timm", reason="needs timm")
        student = timm.create_model(name.partition(":")[2], pretrained=False, num_classes=4).eval()
        example = torch.randn(2, 3, 32, 32)
        given = (example,)
        with torch.no_grad():
            expected = student(example)
    found = export(student, "onnx", tmp_path / "a.onnx", example=example, dynamic=["batch"])
    torch.testing.assert_close(found.exported.run(*given), expected, atol=1e-4, rtol=1e-4)
