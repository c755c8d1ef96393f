"""``Distill(task=…)`` gives a guest the figures of its task, and the format's needs of labels are met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import BatchFormat, Distill, Hint, OnHead, SoftTarget
from lit_distill.callbacks.distill.defaults import common_task
from lit_distill.criteria import LogitMSE
from lit_distill.utils.notices import DistillationWarning
from tests.callbacks.guests import Theirs, fit, teacher, theirs
from tests.callbacks.test_evaluation import logged

X, NUMBERS = torch.randn(8, 5), torch.randn(8, 3)


class Regressor(Theirs):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model(batch[0])


def of_numbers() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, NUMBERS), batch_size=4)


def test_a_regression_has_its_figures_and_its_default_criterion(tmp_path: Path) -> None:
    module, network_t = theirs(Regressor), teacher()
    guest = Distill(network_t, task="regression")
    assert isinstance(guest.criteria.criteria()["soft"], LogitMSE)
    found = logged(fit(module, guest, tmp_path, data=of_numbers(), val=of_numbers()))
    with torch.no_grad():
        own, taught = module.model.eval()(X), network_t.eval()(X)
    assert found["mean_squared_error/student"] == pytest.approx(float(F.mse_loss(own, NUMBERS)), rel=1e-4)
    assert found["mean_squared_error/teacher"] == pytest.approx(float(F.mse_loss(taught, NUMBERS)), rel=1e-4)
    assert not any(name.startswith("accuracy") for name in found)


def test_embeddings_have_their_cosine(tmp_path: Path) -> None:
    guest = Distill(teacher(), task="embedding")
    found = logged(fit(theirs(Regressor), guest, tmp_path, data=of_numbers(), val=of_numbers()))
    assert set(found) == {"cosine_similarity"}


def test_the_task_none_has_no_figures(tmp_path: Path) -> None:
    guest = Distill(teacher(), {"mse": LogitMSE()}, {"mse": 1.0}, task="none")
    assert logged(fit(theirs(Regressor), guest, tmp_path, data=of_numbers(), val=of_numbers())) == {}


def test_a_criterion_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'soft' \(SoftTarget\) is for the task 'multiclass', and Distill's task"):
        Distill(teacher(), {"soft": SoftTarget()}, {"soft": 1.0}, task="regression")
    with pytest.raises(ValueError, match="task must be one of"):
        Distill(teacher(), task="regresion")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no default criteria for the task 'none'"):
        Distill(teacher(), task="none")


def test_the_task_of_a_wrapped_criterion_counts() -> None:
    assert common_task({"a": LogitMSE(), "b": OnHead(SoftTarget(task="multilabel"), "head")}) == "multilabel"


def test_labels_that_do_not_fit_speak_of_distill(tmp_path: Path) -> None:
    class Indices(Regressor):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.model(batch[0]).square().mean()

    data = DataLoader(TensorDataset(X, torch.full((8,), 7)), batch_size=4)
    with pytest.warns(DistillationWarning, match=r"Set Distill\(task=…\) to what the outputs are"):
        fit(theirs(Indices), Distill(teacher()), tmp_path, data=data, val=data)


class Dense(Theirs):
    """Segments images; 255 is no class."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.model = dense(stride)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.model(batch[0])
        return F.cross_entropy(F.interpolate(logits, size=batch[1].shape[1:]), batch[1], ignore_index=255)


def dense(stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


@pytest.mark.parametrize("criterion", [SoftTarget(), Hint("0", "0")])
def test_positions_of_unknown_labels_are_left_out_of_criteria_that_read_no_labels(
    tmp_path: Path, criterion: Any
) -> None:
    images, labels = torch.randn(4, 2, 6, 6), torch.randint(0, 3, (4, 6, 6))
    labels[:, :3] = 255
    data = DataLoader(TensorDataset(images, labels), batch_size=2)
    guest = Distill(
        dense(),
        {"it": criterion},
        {"it": 1.0},
        batch_format=BatchFormat(mask_from_labels=True, missing_label=255),
        evaluate=False,
    )
    masks: list[Any] = []
    guest.criteria.register_forward_pre_hook(lambda m, args: masks.append(args[0].mask))
    fit(theirs(Dense), guest, tmp_path, data=data)
    assert masks
    for mask in masks:
        assert mask is not None
        assert not mask[:, :3].any()
        assert mask[:, 3:].all()


def test_logits_are_resized_for_criteria_that_read_no_labels(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(torch.randn(4, 2, 8, 8), torch.randint(0, 3, (4, 8, 8))), batch_size=2)
    format_ = BatchFormat(resize_logits=True)
    guest = Distill(dense(), {"soft": SoftTarget()}, {"soft": 1.0}, batch_format=format_, evaluate=False)
    sizes: list[Any] = []
    guest.criteria.register_forward_pre_hook(lambda m, args: sizes.append(args[0].logits.shape[2:]))
    fit(theirs(Dense, stride=2), guest, tmp_path, data=data)
    assert set(sizes) == {torch.Size([8, 8])}
