"""Default soft targets standardize logits where that is sound, decided once before the fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    Distill,
    DistillationModule,
    FrozenTeacher,
    HardTarget,
    LogitDistillation,
    RecordedTeacher,
    SoftTarget,
)
from lit_distill.criteria import LogitMSE, OnHead
from lit_distill.models import SmallCNN
from lit_distill.outputs import Outputs
from tests.plain import Plain, quiet_trainer

STANDARDIZED = "Criterion soft compares standardized logits"


def net(classes: int = 3, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, classes), *last)


def data(classes: int = 3, shape: tuple[int, ...] = (8,)) -> DataLoader[Any]:
    inputs = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(16) % classes).view(16, *[1] * (len(shape) - 1)).expand(16, *shape[:-1])
    return DataLoader(TensorDataset(inputs, labels.contiguous()), batch_size=8)


def tasks(classes: int, ones: int) -> DataLoader[Any]:
    """Data of a binary or multilabel task."""
    return DataLoader(TensorDataset(torch.randn(16, 8), torch.ones(16, ones).float()), batch_size=8)


class Add(nn.Module):
    """Adds to the logits of the last classes."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, logits: Tensor) -> Tensor:
        return logits + torch.tensor([0.0] * (logits.shape[-1] - 1) + [self.value])


class Floor(nn.Module):
    """Keeps the largest logit of each row, and gives all others one value."""

    def forward(self, logits: Tensor) -> Tensor:
        return torch.where(logits == logits.amax(-1, keepdim=True), logits, -5.0)


def fitted(module: LogitDistillation, loader: DataLoader[Any] | None = None, **options: Any) -> LogitDistillation:
    quiet_trainer(enable_checkpointing=False, **options).fit(module, loader or data())
    return module


def soft(module: DistillationModule) -> SoftTarget:
    criterion = module.criteria["soft"]
    assert isinstance(criterion, SoftTarget)
    return criterion


SOUND: dict[str, Callable[[], LogitDistillation]] = {
    "three classes": lambda: LogitDistillation(net(), net()),
    "a log-softmax": lambda: LogitDistillation(net(), net(3, nn.LogSoftmax(-1))),
    "a recording of all logits": lambda: LogitDistillation(net(), RecordedTeacher(net(), logits="int8")),
    "a head that starts at zero": lambda: LogitDistillation(zeros(), net()),
    "a scale of its own": lambda: LogitDistillation(net(), scaled()),
}


def zeros() -> nn.Sequential:
    student = net(5)
    nn.init.zeros_(student[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(student[2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*student, nn.Linear(5, 3))


def scaled() -> nn.Sequential:
    teacher = net()
    teacher[2].weight.data *= 50  # type: ignore[union-attr, operator]
    return teacher


@pytest.mark.parametrize("case", SOUND)
def test_logits_of_three_classes_are_standardized(case: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        module = fitted(SOUND[case]())
    assert soft(module).standardize is True
    assert caplog.text.count(f"{STANDARDIZED} (standardize=False: as they are).") == 1


UNSOUND: dict[str, tuple[Callable[[], LogitDistillation], DataLoader[Any], str]] = {
    "two classes": (lambda: LogitDistillation(net(2), net(2)), data(2), "of 2 classes only their order would be left"),
    "too many": (lambda: LogitDistillation(net(1001), net(1001)), data(), "1,001 classes are more than were measured"),
    "no labels": (
        lambda: LogitDistillation(net(), net(), weights={"hard": 0, "soft": 1}),
        data(),
        "no criterion learns from labels",
    ),
    "largest only": (
        lambda: LogitDistillation(net(), RecordedTeacher(net(), logits="top_k", top_k=1)),
        data(),
        "the teacher's recording keeps only the largest of each sample",
    ),
    "a table of the largest": (
        lambda: LogitDistillation(net(), net(3, Floor())),
        data(),
        "most classes of the teacher share one value",
    ),
    "probabilities": (
        lambda: LogitDistillation(net(), net(3, nn.Softmax(-1))),
        data(),
        "the teacher returns probabilities",
    ),
    "sigmoids": (lambda: LogitDistillation(net(), net(3, nn.Sigmoid())), data(), "the teacher returns probabilities"),
    "a masked class": (lambda: LogitDistillation(net(), net(3, Add(-1e9))), data(), "some of the teacher's classes"),
    "a padded class": (lambda: LogitDistillation(net(3, Add(-1e4)), net()), data(), "some of the student's classes"),
    "tokens": (lambda: LogitDistillation(net(), net()), data(3, (5, 8)), "the teacher's are [5, 3] a sample"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", UNSOUND)
def test_other_logits_stay_as_they_are(case: str, caplog: pytest.LogCaptureFixture) -> None:
    make, loader, why = UNSOUND[case]
    with caplog.at_level("INFO"):
        module = fitted(make(), loader)
    assert soft(module).standardize is False
    assert f"Criterion soft compares plain logits, as {why}" in caplog.text


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_sigmoids_are_never_standardized(task: Any) -> None:
    ones = 1 if task == "binary" else 3
    assert soft(fitted(LogitDistillation(net(ones), net(ones), task=task), tasks(3, ones))).standardize is False
    with pytest.raises(ValueError, match=f"standardize compares classes .* the task '{task}' has none"):
        LogitDistillation(net(ones), net(ones), task=task, standardize=True)


def test_true_and_false_are_taken_at_their_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert soft(fitted(LogitDistillation(net(2), net(2), standardize=True), data(2))).standardize is True
        assert soft(fitted(LogitDistillation(net(), net(), standardize=False))).standardize is False
    assert "logits" not in caplog.text


def test_standardize_belongs_to_the_default_soft_target() -> None:
    criteria: dict[str, Any] = {"hard": HardTarget(), "soft": SoftTarget()}
    with pytest.raises(ValueError, match="standardize belongs to the default criteria"):
        LogitDistillation(net(), net(), criteria, standardize=True)
    with pytest.raises(ValueError, match="standardize applies to soft targets of classes, and the task 'regression'"):
        LogitDistillation(net(), net(), task="regression", standardize=True)
    with pytest.raises(TypeError, match="standardize is a str; give True or False, or 'auto'"):
        LogitDistillation(net(), net(), standardize="yes")  # type: ignore[arg-type]
    assert isinstance(LogitDistillation(net(), net(), task="regression").criteria["soft"], LogitMSE)
    assert soft(LogitDistillation(net(), net(), criteria)).standardize is False


def test_the_default_is_the_formula_that_the_tables_measure() -> None:
    """Bit for bit: labels 0.1, standardized soft targets at T = 4 with 0.9."""
    by_hand: dict[str, Any] = {"hard": HardTarget(), "soft": SoftTarget(4.0, standardize=True)}
    found = []
    for options in ({}, {"criteria": by_hand, "weights": {"hard": 0.1, "soft": 0.9}}):
        seed_everything(0, verbose=False)
        found.append(fitted(LogitDistillation(net(), net(), **options), max_epochs=2).student.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_both_modules_share_the_default() -> None:
    module = CombinedDistillation(net(), net(), student_layer="1", teacher_layer="1")
    quiet_trainer(enable_checkpointing=False).fit(module, data())
    assert soft(module).standardize is True


def test_distill_decides_as_well() -> None:
    distill = Distill(net(), {"soft": SoftTarget(standardize="auto")}, {"soft": 0.9, "task": 0.1})
    quiet_trainer(callbacks=[distill], enable_checkpointing=False).fit(Plain(net()), data())
    assert distill.criteria["soft"].standardize is True  # type: ignore[union-attr]


def test_an_undecided_criterion_says_so() -> None:
    outputs = Outputs(torch.randn(2, 3))
    with pytest.raises(ValueError, match="standardize is 'auto', and nothing has decided it yet"):
        SoftTarget(standardize="auto")(outputs, outputs)
    held = {"hard": HardTarget(), "soft": OnHead(SoftTarget(standardize="auto"), "2")}
    module = DistillationModule(net(), net(), held, {"hard": 0.1, "soft": 0.9})
    with pytest.raises(ValueError, match=r"criterion 'soft'.*Give True or False"):
        quiet_trainer(enable_checkpointing=False).fit(module, data())


# Checkpoints -------------------------------------------------------------------------------------


def saved(module: LogitDistillation, path: Path, epochs: int = 1) -> Path:
    trainer = quiet_trainer(enable_checkpointing=False, max_epochs=epochs)
    trainer.fit(module, data())
    trainer.save_checkpoint(path)
    return path


def resumed(module: LogitDistillation, path: Path) -> LogitDistillation:
    quiet_trainer(enable_checkpointing=False, max_epochs=2).fit(module, data(), ckpt_path=path, weights_only=True)
    return module


def seeded(**options: Any) -> LogitDistillation:
    seed_everything(0, verbose=False)
    return LogitDistillation(net(), FrozenTeacher(net()), **options)


def test_a_resumed_run_decides_the_same(tmp_path: Path) -> None:
    path = saved(seeded(), tmp_path / "last.ckpt")
    assert torch.load(path, weights_only=True)["lit_distill"]["standardized"] == {"soft": True}
    whole, again = fitted(seeded(), max_epochs=2), resumed(seeded(), path)
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(tensor, again.student.state_dict()[name])


def test_a_combined_default_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Found layers, a projector made for them, and the decision to standardize, all from the checkpoint."""

    def made() -> CombinedDistillation:
        seed_everything(0, verbose=False)
        return CombinedDistillation(SmallCNN(4), SmallCNN(8))

    def images() -> DataLoader[Any]:
        pixels = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(pixels, torch.arange(16) % 10), batch_size=8)

    whole = made()  # the fit finds the layers and makes the projector, with the random state that this leaves
    quiet_trainer(enable_checkpointing=False, max_epochs=2).fit(whole, images())
    trainer = quiet_trainer(enable_checkpointing=False, max_epochs=1)
    trainer.fit(made(), images())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = made()
    trainer = quiet_trainer(enable_checkpointing=False, max_epochs=2)
    trainer.fit(again, images(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert whole.state_dict().keys() == again.state_dict().keys()
    assert any("hint" in name for name in whole.state_dict())  # the projector
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert soft(whole).standardize is soft(again).standardize is True


def test_a_resumed_run_follows_its_checkpoint_and_not_the_example(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(seeded(standardize=False), tmp_path / "last.ckpt")
    with caplog.at_level("INFO"):
        module = resumed(seeded(), path)
    assert soft(module).standardize is False
    assert "Criterion soft compares plain logits, as in the checkpoint." in caplog.text
    assert "differs" not in caplog.text


@pytest.mark.parametrize("settings", [False, True, None])
def test_checkpoints_of_before_continue_as_they_began(tmp_path: Path, settings: bool | None) -> None:
    """They say in their settings what they did; the oldest have none, and compared plain logits."""
    path = saved(seeded(standardize=bool(settings)), tmp_path / "last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["lit_distill"]["standardized"]
    if settings is None:
        del checkpoint["lit_distill"]["settings"]
    torch.save(checkpoint, path)
    assert soft(resumed(seeded(), path)).standardize is bool(settings)


def test_an_explicit_value_wins_over_the_checkpoint_and_says_so(tmp_path: Path) -> None:
    path = saved(seeded(), tmp_path / "last.ckpt")
    with pytest.warns(match=r"criteria\.soft\.standardize: the checkpoint was made with True, this run has False"):
        assert soft(resumed(seeded(standardize=False), path)).standardize is False
