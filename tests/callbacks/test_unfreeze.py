"""Layers that join the training later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import FeatureDistillation, LogitDistillation, SupervisedModule
from lit_distill.callbacks import Unfreeze
from lit_distill.models import MLP, SmallCNN

STAGES = ("stage1", "stage2", "stage3", "classifier")


class Watching(Callback):
    """Keeps the student's state at the start of each epoch, and the groups' learning rates."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.rates: list[list[float]] = []
        self.training: list[bool] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        student = pl_module.student
        assert isinstance(student, nn.Module)
        self.states.append({name: value.clone() for name, value in student.state_dict().items()})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
            self.training.append(pl_module.get_submodule("student.stage1.1").training)


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8) % 3), batch_size=4)


def distillation(**arguments: Any) -> LogitDistillation:
    return LogitDistillation(SmallCNN(2, 3), SmallCNN(4, 3), **arguments)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def of(state: dict[str, Tensor], *layers: str) -> set[str]:
    return {name for name in state if name.startswith(layers)}


def test_bit_identical_before_the_epoch_and_moving_afterwards(
    loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]
) -> None:
    """Weights, and BatchNorm's statistics too."""
    watching = Watching()
    trainer = quick_trainer(max_epochs=4, callbacks=[Unfreeze(["stage[12]"], epoch=2), watching])
    trainer.fit(distillation(), loader, loader)
    states = watching.states
    frozen, rest = of(states[0], "stage1", "stage2"), of(states[0], "stage3", "classifier")
    assert moved(states[0], states[1]) == moved(states[1], states[2]) == rest
    assert moved(states[2], states[3]) == frozen | rest
    assert watching.training == [False, False, True, True]


def test_batch_norm_may_train_from_the_start(loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]) -> None:
    watching = Watching()
    callback = Unfreeze(["stage1"], epoch=2, train_batch_norm=True)
    trainer = quick_trainer(max_epochs=4, callbacks=[callback, watching])
    trainer.fit(distillation(), loader)
    states = watching.states
    assert "stage1.0.weight" not in moved(states[0], states[2])
    assert of(states[0], "stage1.1") <= moved(states[0], states[1])
    assert "stage1.0.weight" in moved(states[2], states[3])
    held = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(held) == len(set(held))


def constant(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "constant": constant,
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 3),  # starts again within the fit
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "steps": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3], 0.5),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8),
    "chained": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 1), lr_scheduler.ExponentialLR(optimizer, 0.9)], [3]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_its_rate_is_the_factor_of_the_first_groups_under_every_schedule(
    loader: DataLoader[Any], name: str, quick_trainer: Callable[..., Trainer]
) -> None:
    watching = Watching()
    alone = Watching()
    for callbacks in ([Unfreeze(["stage1"], 2, lr_factor=0.3), watching], [alone]):
        trainer = quick_trainer(max_epochs=6, callbacks=callbacks)
        trainer.fit(distillation(lr_scheduler=SCHEDULES[name]), loader)
    assert [len(rates) for rates in watching.rates] == [1, 1, 2, 2, 2, 2]
    assert [rates[0] for rates in watching.rates] == pytest.approx([rates[0] for rates in alone.rates])
    for rates in watching.rates[2:]:
        assert rates[1] == pytest.approx(0.3 * rates[0])


class Own(LightningModule):
    """A module that knows nothing of this library."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(64, (5,), 3)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize(("module", "layer"), [("net", "hidden"), ("", "net.hidden")])
def test_any_lightning_module(
    loader: DataLoader[Any], module: str, layer: str, quick_trainer: Callable[..., Trainer]
) -> None:
    own = Own()
    start = own.net.hidden[0][0].weight.clone()  # type: ignore[index, union-attr]
    for epochs, moves in ((1, False), (2, True)):
        quick_trainer(max_epochs=epochs, callbacks=[Unfreeze([layer], 1, module=module)]).fit(own, loader)
        assert torch.equal(own.net.hidden[0][0].weight, start) is not moves  # type: ignore[index, union-attr]


def fit(make: Callable[..., Trainer], folder: Path, loader: DataLoader[Any], **arguments: Any) -> LogitDistillation:
    callbacks = [Unfreeze(["stage2"], 1), Unfreeze(["stage1"], 2), ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]
    trainer = make(max_epochs=5, enable_checkpointing=True, callbacks=callbacks, default_root_dir=str(folder))
    module = distillation(lr_scheduler=SCHEDULES["lambda"])
    trainer.fit(module, loader, **arguments)
    return module


@pytest.mark.filterwarnings("ignore:.*The dirpath has changed.*")
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_resumed_equals_uninterrupted(
    loader: DataLoader[Any], tmp_path: Path, epoch: int, quick_trainer: Callable[..., Trainer]
) -> None:
    """Before, between and after the epochs at which layers join, to the last bit."""
    torch.manual_seed(1)
    whole = fit(quick_trainer, tmp_path / "whole", loader)
    torch.manual_seed(1)
    saved = tmp_path / "whole" / f"epoch={epoch}.ckpt"
    resumed = fit(quick_trainer, tmp_path / "resumed", loader, ckpt_path=saved)
    assert not moved(whole.student.state_dict(), resumed.student.state_dict())
    assert all(parameter.requires_grad for parameter in resumed.student.parameters())
    states = [module.optimizers().optimizer.state_dict() for module in (whole, resumed)]  # type: ignore[union-attr]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert len(states[0]["param_groups"]) == 3


def test_what_was_frozen_stays_frozen(loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]) -> None:
    module = distillation()
    module.student.stage1.requires_grad_(False)  # type: ignore[union-attr, operator]
    before = module.student.stage1[0].weight.clone()  # type: ignore[index, union-attr, operator]
    quick_trainer(max_epochs=3, callbacks=[Unfreeze(["stage*"], 1)]).fit(module, loader)
    assert torch.equal(module.student.stage1[0].weight, before)  # type: ignore[index, union-attr, arg-type]


def test_nothing_is_left_frozen(loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]) -> None:
    """After a fit that ended before the epoch, and after one that failed."""

    class Failing(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise KeyError("broken")

    module = distillation()
    quick_trainer(callbacks=[Unfreeze(["stage1"], 1)]).fit(module, loader)
    assert all(parameter.requires_grad for parameter in module.student.parameters())
    assert all(part.training for part in module.student.modules())
    with pytest.raises(KeyError, match="broken"):
        quick_trainer(callbacks=[Unfreeze(["stage1"], 1), Failing()]).fit(module, loader)
    assert all(parameter.requires_grad for parameter in module.student.parameters())


def test_a_second_fit_freezes_again(loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]) -> None:
    callback, module = Unfreeze(["stage1"], 1), SupervisedModule(SmallCNN(2, 3))
    quick_trainer(max_epochs=2, callbacks=[callback]).fit(module, loader)
    watching = Watching()
    quick_trainer(max_epochs=2, callbacks=[callback, watching]).fit(module, loader)
    assert [len(rates) for rates in watching.rates] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [], "epoch": 1}, "names no layer"),
        ({"layers": ["stage1"], "epoch": 0}, "epoch must be at least 1"),
        ({"layers": ["stage1"], "epoch": 1, "lr_factor": 0.0}, "lr_factor must be above 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Unfreeze(**arguments)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Unfreeze(["stage9"], 1)], "no layer 'stage9' in the student SmallCNN; did you mean 'stage"),
        ([Unfreeze(list(STAGES), 1)], "freezes everything that would train"),
        ([Unfreeze(["stage1"], 2), Unfreeze(["stage2"], 1)], r"order of their epochs; they have \[2, 1\]"),
        ([Unfreeze(["stage1"], 1, module="pupil")], "no network 'pupil' in the LogitDistillation"),
    ],
)
def test_what_is_refused_before_the_first_batch(
    loader: DataLoader[Any], callbacks: list[Callback], message: str, quick_trainer: Callable[..., Trainer]
) -> None:
    with pytest.raises(ValueError, match=message):
        quick_trainer(callbacks=callbacks).fit(distillation(), loader)


def test_several_processes_are_refused(quick_trainer: Callable[..., Trainer]) -> None:
    trainer = quick_trainer(devices=2, strategy="ddp")
    with pytest.raises(ValueError, match="works in one process"):
        Unfreeze(["stage1"], 1).setup(trainer, distillation(), "fit")


def test_a_hint_on_a_frozen_layer_is_refused(loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]) -> None:
    module = FeatureDistillation(SmallCNN(2, 3), SmallCNN(4, 3), student_layer="stage1", teacher_layer="stage1")
    with pytest.raises(RuntimeError, match="no gradient reaches the student through stage1"):
        quick_trainer(callbacks=[Unfreeze(["stage1"], 1)]).fit(module, loader)
