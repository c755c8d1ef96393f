"""A file at the end of a fit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import FeatureDistillation, MutualDistillation
from lit_distill.export import DisagreementError, ExportAtEnd, load_exported
from lit_distill.models import SmallCNN
from tests.plain import Plain, quiet_trainer


def data() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8)), batch_size=4)


def trainer(folder: Path, callback: ExportAtEnd, **options: object) -> Trainer:
    return quiet_trainer(enable_checkpointing=False, default_root_dir=folder, callbacks=[callback], **options)


def test_the_file_computes_what_the_trained_student_computes(tmp_path: Path) -> None:
    module = FeatureDistillation(SmallCNN(4), SmallCNN(8), "stage1", "stage1")
    trainer(tmp_path, ExportAtEnd("torch_export")).fit(module, data(), data())
    images = torch.rand(3, 1, 8, 8)
    found = load_exported(tmp_path / "student.pt2").run(images)
    assert torch.allclose(found, module.student.eval()(images), atol=1e-4)
    assert not any(part._forward_hooks for part in module.student.modules())


def test_a_file_that_disagrees_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["lit_distill.export.verifying"], "TOLERANCE", -1.0)
    module = FeatureDistillation(SmallCNN(4), SmallCNN(8), "stage1", "stage1")
    with pytest.raises(DisagreementError):
        trainer(tmp_path, ExportAtEnd("torch_export")).fit(module, data(), data())
    assert not (tmp_path / "student.pt2").exists()


def test_what_cannot_be_exported_is_refused_before_the_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="module of this library, and the Plain is none"):
        trainer(tmp_path, ExportAtEnd("torch_export")).fit(Plain(nn.Linear(4, 3)), data())
    with pytest.raises(ValueError, match="several networks are trained"):
        trainer(tmp_path, ExportAtEnd("torch_export")).fit(MutualDistillation([SmallCNN(4), SmallCNN(4)]), data())
    with pytest.raises(ValueError, match="onxx"):
        ExportAtEnd("onxx")
    with pytest.raises(ValueError, match="precision"):
        ExportAtEnd("torch_export", precision="int8")
