"""The shipped chain from a teacher to a pruned student's int8 file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lit_distill import load
from lit_distill.chain import main
from lit_distill.export import load_exported
from lit_distill.models import SmallCNN


@pytest.mark.slow
def test_the_chain_ends_with_an_int8_file_and_goes_on_where_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    words = ["-c", "configs/compress/digits.yaml", "--folder", str(tmp_path), "--trainer.max_epochs=2"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"]
    main([*words, *quiet])
    student = load(SmallCNN(16), tmp_path / "pruned" / "last.ckpt")
    assert sum(one.numel() for one in student.parameters()) == sum(one.numel() for one in SmallCNN(8).parameters())
    file = tmp_path / "pruned" / "student.onnx"
    images = torch.rand(3, 1, 8, 8)
    found = load_exported(file).run(images)
    assert torch.allclose(found, student.eval()(images), atol=0.5)
    record = tmp_path / "pruned" / "link.json"
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"finished": False})
    )  # as if killed while it exported
    file.unlink()
    capfd.readouterr()
    main([*words, *quiet])
    said = capfd.readouterr().out
    assert said.count("finished before, skipped") == 3
    assert "goes on from" in said
    assert torch.equal(load_exported(file).run(images), found)
