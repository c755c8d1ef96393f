"""A function as the teacher: its numbers are the logits, and mistakes are told before training."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import Distill, LogitDistillation, RecordedTeacher
from lit_distill.teachers import FunctionNetwork, FunctionTeacher, OnnxNetwork


@pytest.fixture(scope="module")
def data() -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 5, generator=generator)
    return [(row, int(row[:3].argmax())) for row in rows]


@pytest.fixture(scope="module")
def forest(data: list[tuple[Tensor, int]]) -> RandomForestClassifier:
    rows = np.stack([row.numpy() for row, _ in data])
    return RandomForestClassifier(20, random_state=0).fit(rows, [label for _, label in data])


class Counted:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.rows = function, 0

    def __call__(self, rows: Any) -> Any:
        self.rows += len(rows)
        return self.function(rows)


class PlainModule(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(5, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_probabilities_come_back_out_of_the_logits(forest: RandomForestClassifier, data: Any) -> None:
    rows = torch.stack([row for row, _ in data])
    expected = torch.tensor(forest.predict_proba(rows.numpy())).clamp_min(1e-6).float()
    logits = FunctionTeacher(forest.predict_proba, "probabilities").predict(rows).logits
    torch.testing.assert_close(logits.exp(), expected)
    torch.testing.assert_close(logits.softmax(-1), expected / expected.sum(-1, keepdim=True))


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fit_asks_it_for_every_batch_and_a_recording_once(
    forest: RandomForestClassifier, data: Any, quick_trainer: Callable[..., Trainer], fast: bool
) -> None:
    loader = DataLoader(data, batch_size=8)
    rows, weights = {}, {}
    for name in ("function", "recorded"):
        counted = Counted(forest.predict_proba)
        network = FunctionNetwork(counted, "probabilities")
        torch.manual_seed(0)
        teacher = RecordedTeacher(network, logits="float32") if name == "recorded" else network
        student = nn.Linear(5, 3)
        quick_trainer(max_epochs=3).fit(LogitDistillation(student, teacher, fast=fast), loader)
        rows[name], weights[name] = counted.rows, student.weight.detach()
    torch.testing.assert_close(weights["function"], weights["recorded"], atol=1e-5, rtol=0)
    assert rows["function"] >= 3 * 40
    assert 40 <= rows["recorded"] < 3 * 40


def test_a_plug_in_takes_it(forest: RandomForestClassifier, data: Any, quick_trainer: Callable[..., Trainer]) -> None:
    trainer = quick_trainer(max_epochs=1, callbacks=[Distill(FunctionTeacher(forest.predict_proba, "probabilities"))])
    trainer.fit(PlainModule(), DataLoader(data, batch_size=8))
    found = [float(value) for name, value in trainer.callback_metrics.items() if "soft" in name]
    assert max(found) > 0


def test_named_inputs_and_tensors_reach_the_function() -> None:
    network = FunctionNetwork(lambda x, scale: x * scale, arrays=False)
    assert torch.equal(network(x=torch.ones(2, 3), scale=torch.full((2, 1), 2.0)), torch.full((2, 3), 2.0))


def test_what_the_function_returns_is_checked() -> None:
    rows = torch.zeros(4, 2)
    with pytest.raises(TypeError, match="returned a list; return an array or a tensor"):
        FunctionNetwork(lambda x: x.tolist())(rows)
    with pytest.raises(ValueError, match=r"returned \[2, 4\] for 4 samples; it must return a row for each"):
        FunctionNetwork(lambda x: x.T)(rows)
    with pytest.raises(TypeError, match="returned torch.int64; return floats"):
        FunctionNetwork(lambda x: np.zeros(len(x), np.int64))(rows)
    with pytest.raises(ValueError, match="no probabilities of all classes.*gives='logits'"):
        FunctionNetwork(lambda x: x + 1, "probabilities")(rows)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="function is a Linear; give a function.*A network needs no FunctionNetwork"):
        FunctionTeacher(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="the class RandomForestClassifier"):
        FunctionTeacher(RandomForestClassifier)
    with pytest.raises(ValueError, match="least"):
        FunctionTeacher(len, least=0)


def test_a_recording_of_a_function_that_answers_otherwise_now_is_refused(
    tmp_path: Path, data: Any, quick_trainer: Callable[..., Trainer]
) -> None:
    factor = [1.0]
    for step in range(3):
        teacher = RecordedTeacher(FunctionNetwork(lambda x: factor[0] * x[:, :3]), tmp_path / "recording")
        module = LogitDistillation(nn.Linear(5, 3), teacher)
        if step < 2:
            quick_trainer(max_epochs=1).fit(module, DataLoader(data, 8))
            assert teacher.recorded == (0 if step else 40)
            continue
        factor[0] = 2.0
        with pytest.raises(ValueError, match="recorded"):
            quick_trainer(max_epochs=1).fit(module, DataLoader(data, 8))


class TestOnnx:
    @pytest.fixture
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()

    @pytest.fixture
    def path(self, network: nn.Module, tmp_path: Path) -> Path:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        path = tmp_path / "teacher.onnx"
        sizes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(
            network, (torch.zeros(2, 5),), path, dynamo=True, dynamic_shapes=sizes, output_names=["scores"]
        )
        return path

    @pytest.mark.slow
    def test_it_gives_what_the_network_gave(self, network: nn.Module, path: Path) -> None:
        rows = torch.randn(7, 5)
        for teacher in (
            OnnxNetwork(path),
            copy.deepcopy(OnnxNetwork(path)),
            pickle.loads(pickle.dumps(OnnxNetwork(path))),
        ):
            torch.testing.assert_close(teacher(rows), network(rows).detach())

    @pytest.mark.slow
    def test_files_and_outputs_that_are_not_there(self, path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no ONNX file"):
            OnnxNetwork(path.with_name("other.onnx"))
        with pytest.raises(ValueError, match=r"no output 'logits', but scores"):
            OnnxNetwork(path, output="logits")
        with pytest.raises(ValueError, match="got 2 inputs"):
            OnnxNetwork(path)(torch.zeros(1, 5), torch.zeros(1, 5))
