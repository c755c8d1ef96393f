"""A softmax over one class is never 0 in silence; a criterion of classes is not for numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, Distill, FeatureDistillation, LogitDistillation, SupervisedModule
from lit_distill.criteria import (
    CTKD,
    DIST,
    DKD,
    NKD,
    OFA,
    RLD,
    TTM,
    WTTM,
    Criterion,
    EnsembleTarget,
    HardDistillation,
    HardTarget,
    LogitMSE,
    LogitRelation,
    MultiTemperature,
    Mutual,
    OwnTeacher,
    SoftTarget,
    TeacherFree,
)
from lit_distill.models import Ensemble
from lit_distill.outputs import Outputs
from tests.plain import quiet_trainer

OVER_CLASSES: dict[str, Callable[[], Criterion]] = {
    "SoftTarget": SoftTarget,
    "reverse": lambda: SoftTarget(divergence="reverse"),
    "MultiTemperature": MultiTemperature,
    "TTM": TTM,
    "WTTM": WTTM,
    "DIST": DIST,
    "LogitRelation": LogitRelation,
    "CTKD": CTKD,
    "HardDistillation": HardDistillation,
    "HardTarget": HardTarget,
    "TeacherFree": TeacherFree,
    "EnsembleTarget": lambda: EnsembleTarget("0"),
    "Mutual": lambda: Mutual(["0", "1"]),
    "OwnTeacher": lambda: OwnTeacher("0"),
    "OFA": lambda: OFA("0"),
}


SHAPES = [(4, 1), (4,), (4, 5, 1), (4, 1, 3, 3)]
EXITS = ("OwnTeacher", "OFA")  # they classify whole samples


@pytest.mark.parametrize(
    ("make", "shape"),
    [(make, shape) for name, make in OVER_CLASSES.items() for shape in (SHAPES[:1] if name in EXITS else SHAPES)],
)
def test_one_logit_is_refused_with_the_remedies(make: Callable[[], Criterion], shape: tuple[int, ...]) -> None:
    criterion = make()
    logits = torch.randn(shape)
    outputs = Outputs(logits, {"0": logits, "1": torch.randn(shape)})
    target = torch.zeros(logits.movedim(1, -1).shape[:-1] if len(shape) == 4 else shape[:-1] or shape).long()
    with pytest.raises(
        ValueError, match="softmax over one class is always 1.*task='binary'.*task='regression'.*LogitMSE"
    ):
        criterion(outputs, outputs, target)


@pytest.mark.parametrize("kind", [DKD, NKD, RLD])
def test_methods_of_three_classes_say_so(kind: type[Criterion]) -> None:
    with pytest.raises(ValueError, match="needs at least 3 classes"):
        kind()(Outputs(torch.zeros(4, 1)), Outputs(torch.zeros(4, 1)), torch.zeros(4).long())


@pytest.mark.parametrize("average", ["probabilities", "confidence"])
def test_an_ensemble_of_one_output_is_not_0_in_silence(average: str) -> None:
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    with pytest.raises(ValueError, match="average='logits'"):
        Ensemble(models, average=average)(torch.randn(3, 2))  # type: ignore[arg-type]
    x = torch.randn(3, 2)
    mean = (models[0](x) + models[1](x)) / 2
    torch.testing.assert_close(Ensemble(models, average="logits")(x), mean)


def loader(target: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(8, 4), target), batch_size=4)


@pytest.mark.parametrize("target", [torch.randint(0, 2, (8, 1)), torch.randint(0, 2, (8,)), torch.randn(8, 1)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: LogitDistillation(nn.Linear(4, 1), nn.Linear(4, 1)),
        lambda: SupervisedModule(nn.Linear(4, 1)),
        lambda: FeatureDistillation(nn.Sequential(nn.Linear(4, 1)), nn.Sequential(nn.Linear(4, 1)), "0", "0"),
        lambda: CombinedDistillation(nn.Sequential(nn.Linear(4, 1)), nn.Sequential(nn.Linear(4, 1)), "0", "0"),
    ],
)
def test_every_module_refuses_it_before_the_first_batch(make: Callable[[], LightningModule], target: Tensor) -> None:
    module = make()
    with pytest.raises(ValueError, match="task='binary'"):
        quiet_trainer(enable_checkpointing=False).fit(module, loader(target))
    assert module.global_step == 0


class OneOutput(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(4, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.model(batch[0]), batch[1].float())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_distill_refuses_it_and_takes_the_remedy() -> None:
    data = loader(torch.randint(0, 2, (8, 1)))
    with pytest.raises(Exception, match="task='binary'"):
        quiet_with(Distill(nn.Linear(4, 1))).fit(OneOutput(), data)
    for criterion in (SoftTarget(task="binary"), LogitMSE()):
        run = quiet_with(Distill(nn.Linear(4, 1), criteria={"soft": criterion}, weights={"soft": 1.0}))
        run.fit(OneOutput(), data)
        assert run.global_step == 2


def quiet_with(callback: Distill) -> Trainer:
    run = quiet_trainer(enable_checkpointing=False)
    run.callbacks.append(callback)  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    "make", [SoftTarget, lambda task: Mutual(["0", "1"], task=task), lambda task: OwnTeacher("0", task=task)]
)
@pytest.mark.parametrize("task", ["regression", "embedding", "none"])
def test_criteria_of_classes_refuse_other_tasks_with_the_remedy(make: Callable[..., Criterion], task: str) -> None:
    with pytest.raises(ValueError, match=f"not '{task}'.*scores of classes.*LogitMSE"):
        make(task=task)
