"""Labels of another task than a soft target's and weights that nobody reads are told before the fit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import BatchFormat, Distill, HardTarget, LogitDistillation, OnHead, SoftTarget
from lit_distill.criteria import LogitMSE
from lit_distill.preflight.misreadings import likely_tasks, may_weigh
from lit_distill.utils.notices import DistillationWarning
from tests.callbacks.guests import Theirs, fit, teacher, theirs

X = torch.randn(8, 5)
MULTI_HOT = torch.tensor([[1, 1, 0], [0, 0, 0]] * 4)
ONE_HOT = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]
NUMBERS = torch.randn(8, 3) * 3


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (NUMBERS, "multiclass", ("regression",)),
        (MULTI_HOT, "multiclass", ("multilabel",)),
        (MULTI_HOT.float(), "multiclass", ("multilabel",)),
        (MULTI_HOT.bool(), "multiclass", ("multilabel",)),
        (torch.full((8, 3), 0.7), "multiclass", ("regression", "multilabel")),
        (ONE_HOT, "multiclass", ()),
        (ONE_HOT.long(), "multiclass", ()),
        (NUMBERS.softmax(-1), "multiclass", ()),
        (torch.randint(0, 3, (8,)), "multiclass", ()),
        (torch.full((8, 3), -100.0), "multiclass", ()),
        (NUMBERS, "multilabel", ("regression",)),
        (MULTI_HOT, "multilabel", ()),
        (torch.where(MULTI_HOT == 1, -100, 1), "multilabel", ()),
    ],
)
def test_the_tasks_that_labels_look_like(labels: Tensor, task: Any, expected: tuple[str, ...]) -> None:
    assert likely_tasks(labels, torch.zeros(8, 3), task) == expected


def test_numbers_beside_one_sigmoid_are_a_regression() -> None:
    assert likely_tasks(NUMBERS[:, 0], torch.zeros(8, 1), "binary") == ("regression",)
    assert likely_tasks((NUMBERS[:, 0] > 0).float(), torch.zeros(8, 1), "binary") == ()


class OfAnyLabels(Theirs):
    """A step whose loss takes labels of the outputs' shape."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.model(batch[0]), batch[1].float())


def said_of(run: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in told if issubclass(one.category, DistillationWarning)]


@pytest.mark.parametrize(("labels", "task"), [(NUMBERS, "regression"), (MULTI_HOT, "multilabel")])
@pytest.mark.parametrize("with_distill", [True, False])
def test_a_soft_target_of_classes_beside_labels_of_another_task_is_told(
    tmp_path: Path, labels: Tensor, task: str, with_distill: bool
) -> None:
    data = DataLoader(TensorDataset(X, labels), batch_size=4)
    guest = Distill(teacher(), evaluate=False) if with_distill else None
    module: Any = theirs(OfAnyLabels)
    if not with_distill:
        module = LogitDistillation(module.model, teacher(), criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    said = [text for text in said_of(lambda: fit(module, guest, tmp_path, data=data)) if "look like those" in text]
    assert len(said) == 1
    assert f"task={task!r}" in said[0]
    assert "Distill" in said[0]


@pytest.mark.parametrize("labels", [ONE_HOT, NUMBERS.softmax(-1), torch.randint(0, 3, (8,))])
def test_labels_of_classes_are_told_nothing(tmp_path: Path, labels: Tensor) -> None:
    class Classes(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

    data = DataLoader(TensorDataset(X, labels), batch_size=4)
    assert said_of(lambda: fit(theirs(Classes), Distill(teacher(), evaluate=False), tmp_path, data=data)) == []


def test_outputs_compared_as_numbers_are_told_nothing(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(X, NUMBERS), batch_size=4)
    guest = Distill(teacher(), {"soft": LogitMSE()}, {"soft": 1.0}, task="regression")
    assert said_of(lambda: fit(theirs(OfAnyLabels), guest, tmp_path, data=data)) == []


WEIGHTED = [{"x": x, "y": y, "w": w} for x, y, w in zip(X, torch.randint(0, 3, (8,)), torch.rand(8), strict=True)]
BY_WEIGHT = BatchFormat(weight_key="w")


class TestWeights:
    def said(self, folder: Path, criteria: Any) -> list[str]:
        module = LogitDistillation(
            nn.Linear(5, 3), nn.Linear(5, 3), criteria, dict.fromkeys(criteria, 1.0), batch_format=BY_WEIGHT
        )
        trainer = Trainer(
            accelerator="cpu", logger=False, fast_dev_run=1, enable_progress_bar=False, default_root_dir=folder
        )
        found = said_of(lambda: trainer.fit(module, DataLoader(WEIGHTED, batch_size=4)))  # type: ignore[arg-type]
        return [text for text in found if "weight_key" in text]

    def test_that_no_criterion_reads_are_told(self, tmp_path: Path) -> None:
        (said,) = self.said(tmp_path, {"soft": SoftTarget()})
        assert "'soft' counts all samples alike" in said

    def test_that_a_hard_target_reads_are_not(self, tmp_path: Path) -> None:
        assert self.said(tmp_path, {"soft": SoftTarget(), "hard": HardTarget()}) == []

    def test_are_looked_for_through_a_head(self) -> None:
        assert may_weigh(OnHead(HardTarget(), "head"))
        assert not may_weigh(OnHead(SoftTarget(), "head"))

    def test_that_a_guest_does_not_read_are_told(self, tmp_path: Path) -> None:
        class Named(Theirs):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return F.cross_entropy(self.model(batch["x"]), batch["y"])

        data: Any = DataLoader(WEIGHTED, batch_size=4)  # type: ignore[arg-type]
        guest = Distill(teacher(), batch_format=BY_WEIGHT)
        said = said_of(lambda: fit(theirs(Named), guest, tmp_path, data=data))
        assert sum("weight_key is set" in text for text in said) == 1
