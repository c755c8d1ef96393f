"""Students of quantisation-aware training become the same files as others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lit_distill.cli.command import main
from lit_distill.compress import quantise
from lit_distill.export import export
from lit_distill.models import MLP
from tests.compress.networks import Flat
from tests.export.networks import images, loader

pytest.importorskip("torchao")
CONFIG = """
trainer: {max_epochs: 1, logger: false, enable_progress_bar: false, accelerator: cpu, default_root_dir: .}
model:
  class_path: LogitDistillation
  init_args:
    student:
      class_path: quantise
      init_args:
        student: {class_path: load, init_args: {model: lit_distill.models.MLP, checkpoint: a.pt}}
        example: [1, 1, 8, 8]
    teacher: {class_path: load, init_args: {model: lit_distill.models.MLP, checkpoint: a.pt}}
data: {class_path: Digits, init_args: {train_size: 300}}
"""


def test_only_int8_is_written_and_only_it_is_compared() -> None:
    floating = Flat()
    student = quantise(floating, [1, 2, 6, 6])
    data: dict[str, Any] = {"calibration": loader(), "validation": loader(16)}
    with pytest.raises(ValueError, match="was trained for int8.*precision 'int8'"):
        export(student, "onnx", **data)
    with pytest.raises(ValueError, match="compare_with is the floating-point student"):
        export(floating, "onnx", precision="int8", compare_with=floating, **data)


@pytest.mark.slow
def test_the_file_holds_the_trained_weights_in_the_runtimes_own_pattern(tmp_path: Path) -> None:
    import onnx

    floating, (inputs, labels) = Flat(), images(96)
    student: Any = quantise(floating, [1, 2, 6, 6])
    optimizer = torch.optim.AdamW(student.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(student(inputs), labels).backward()
        optimizer.step()
    mode, before = student.training, {name: value.clone() for name, value in student.state_dict().items()}
    data: dict[str, Any] = {
        "calibration": DataLoader(list(zip(inputs, labels, strict=True)), batch_size=16),  # type: ignore[arg-type]
        "validation": loader(),
    }
    result = export(
        student, "onnx", tmp_path / "a.onnx", precision="int8", dynamic=["batch"], compare_with=floating, **data
    )
    assert student.training == mode
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert result.verification.agreement >= 0.95
    assert result.post_training is not None
    assert result.post_training.accuracy is not None
    assert result.verification.accuracy is not None
    assert result.post_training.accuracy[1] < result.verification.accuracy[1]  # before, it was untrained
    assert "Post-training int8 of the student before: accuracy" in str(result)
    plain = export(student.float_network(), "onnx", tmp_path / "b.onnx", precision="int8", dynamic=["batch"], **data)
    same = [onnx.load(one) for one in (tmp_path / "a.onnx", tmp_path / "b.onnx")]
    assert [node.op_type for node in same[0].graph.node] == [node.op_type for node in same[1].graph.node]
    assert torch.equal(result.exported.run(inputs), plain.exported.run(inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the teacher's accuracy")
def test_a_config_trains_it_and_exports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fit.yaml").write_text(CONFIG)
    torch.save(MLP().state_dict(), "a.pt")
    main(["fit", "--config", "fit.yaml"])
    (checkpoint,) = tmp_path.rglob("epoch*.ckpt")
    assert torch.load(checkpoint, weights_only=True)
    words = ["export", "--config", "fit.yaml", "--ckpt_path", str(checkpoint), "--target", "onnx"]
    with pytest.raises(SystemExit):
        main(words)
    assert "was trained for int8" in capsys.readouterr().err
    main([*words, "--precision", "int8", "--compare", "--agreement", "0.5"])
    said = json.loads(Path(f"{checkpoint.with_name(checkpoint.stem)}-int8.onnx.json").read_text())
    assert said["student"] == "MLP"
    assert said["post_training"]["accuracy"] != said["measured"]["accuracy"]
