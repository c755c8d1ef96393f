"""The optimizer of a module, its schedule and its learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Hint, LogitDistillation, SupervisedModule
from lit_distill.cli.command import DistillationCLI
from lit_distill.modules import FeatureDistillation, MutualDistillation
from lit_distill.utils.notices import DistillationWarning
from tests.versions import skip_before

RATE = 0.1

pytestmark = [
    pytest.mark.filterwarnings("ignore:the teacher's accuracy.*chance"),  # the teachers here were never trained
    pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using"),  # Lightning's, where it is right so
]
sgd = partial(SGD, lr=RATE)


def data(samples: int = 80) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(samples, 4), torch.randint(0, 3, (samples,))), batch_size=4)


def distillation(**options: Any) -> LogitDistillation:
    return LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3), **{"optimizer": sgd, **options})


class Watch(Callback):
    """Keeps the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        self.rates.append(float(trainer.optimizers[0].param_groups[0]["lr"]))


def fit(trainer: Callable[..., Trainer], module: LightningModule, epochs: int = 2, **options: Any) -> list[float]:
    watch = Watch()
    trainer(max_epochs=epochs, callbacks=[watch], **options).fit(module, data())
    return watch.rates


def told(action: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in caught if issubclass(w.category, DistillationWarning)]


# Schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        partial(lr_scheduler.OneCycleLR, max_lr=RATE, total_steps=40),
        partial(lr_scheduler.OneCycleLR, max_lr=RATE, epochs=2, steps_per_epoch=20),
        partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=RATE, step_size_up=10),
    ],
    ids=["one cycle", "one cycle by epochs and steps", "cyclic"],
)
@pytest.mark.parametrize("trainer", [{}, {"max_epochs": -1, "max_steps": 40}], ids=["epochs", "steps"])
def test_a_schedule_of_more_steps_than_epochs_moves_at_every_step(
    quick_trainer: Callable[..., Trainer], schedule: Any, trainer: dict[str, int]
) -> None:
    watch = Watch()
    settings: dict[str, Any] = {"max_epochs": 2, **trainer}
    quick_trainer(callbacks=[watch], **settings).fit(distillation(lr_scheduler=schedule), data())
    by_hand = SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    reference, expected = schedule(by_hand), []
    for _ in range(40):
        expected.append(by_hand.param_groups[0]["lr"])
        by_hand.step()
        if len(expected) < 40:
            reference.step()
    assert watch.rates == pytest.approx(expected)


def test_one_cycle_of_as_many_steps_as_epochs_moves_by_epoch(quick_trainer: Callable[..., Trainer]) -> None:
    module = distillation(lr_scheduler=partial(lr_scheduler.OneCycleLR, max_lr=RATE, total_steps=3))
    assert len(set(fit(quick_trainer, module, epochs=3))) == 3


@pytest.mark.parametrize(("interval", "count"), [(None, 2), ("epoch", 2), ("step", 40)])
def test_the_interval_is_as_told(quick_trainer: Callable[..., Trainer], interval: Any, count: int) -> None:
    schedule = partial(lr_scheduler.ExponentialLR, gamma=0.9)
    rates = fit(quick_trainer, distillation(lr_scheduler=schedule, lr_interval=interval))
    steps = [i // 20 if count == 2 else i for i in range(40)]
    assert rates == pytest.approx([RATE * 0.9**step for step in steps])


def chained(optimizer: Any) -> Any:
    warm = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10)
    return lr_scheduler.SequentialLR(optimizer, [warm, lr_scheduler.CosineAnnealingLR(optimizer, 30)], [10])


def hugging_face(optimizer: Any) -> Any:
    from transformers import get_linear_schedule_with_warmup

    return get_linear_schedule_with_warmup(optimizer, 4, 40)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(lr_scheduler.CosineAnnealingLR, T_max=40),
        partial(lr_scheduler.MultiStepLR, milestones=[20, 30]),
        partial(lr_scheduler.LinearLR, total_iters=40),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=20),
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: max(0.0, 1 - step / 40)),
        pytest.param(
            partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: min(1.0, step / 1000)), marks=pytest.mark.slow
        ),
        chained,
        hugging_face,
    ],
    ids=["cosine", "milestones", "linear", "restarts", "lambda", "warm-up", "chained", "Hugging Face"],
)
def test_a_schedule_that_looks_made_for_steps_is_said(quick_trainer: Callable[..., Trainer], schedule: Any) -> None:
    steps = 40
    if isinstance(schedule, partial) and schedule.keywords.get("lr_lambda", lambda step: 0)(1000) == 1.0:
        steps = 1000
    samples = DataLoader(TensorDataset(torch.randn(steps, 4), torch.randint(0, 3, (steps,))), batch_size=2)

    def run(**options: Any) -> list[str]:
        return told(lambda: quick_trainer(max_epochs=2).fit(distillation(lr_scheduler=schedule, **options), samples))

    (message,) = run()
    assert "schedule" in message
    assert "epoch" in message
    assert "lr_interval='step'" in message
    assert run(lr_interval="epoch") == []
    assert run(lr_interval="step") == []


@pytest.mark.parametrize(
    "schedule",
    [
        partial(lr_scheduler.CosineAnnealingLR, T_max=4),
        partial(lr_scheduler.MultiStepLR, milestones=[2, 30]),
        partial(lr_scheduler.StepLR, step_size=1),
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: [1, 0.5, 0.1, 0.05, 0.01][epoch]),
        partial(lr_scheduler.ConstantLR, total_iters=2),
    ],
    ids=["cosine", "milestones", "steps", "lambda", "table", "constant"],
)
def test_a_schedule_by_epochs_is_left_in_peace(quick_trainer: Callable[..., Trainer], schedule: Any) -> None:
    assert told(lambda: fit(quick_trainer, distillation(lr_scheduler=schedule), epochs=4)) == []


def test_a_schedule_that_ends_before_the_fit_is_refused_before_the_first_batch(
    quick_trainer: Callable[..., Trainer],
) -> None:
    watch = Watch()
    module = distillation(lr_scheduler=partial(lr_scheduler.OneCycleLR, max_lr=RATE, total_steps=30))
    with pytest.raises(ValueError, match=r"ends after 30 steps, and the fit takes 40.*total_steps=40"):
        quick_trainer(max_epochs=2, callbacks=[watch]).fit(module, data())
    assert watch.rates == []


def test_a_cosine_of_epochs_told_to_move_by_step_is_said(quick_trainer: Callable[..., Trainer]) -> None:
    schedule = partial(lr_scheduler.CosineAnnealingLR, T_max=2)
    (message,) = told(lambda: fit(quick_trainer, distillation(lr_scheduler=schedule, lr_interval="step")))
    assert "T_max=40" in message


def test_reduce_on_plateau_watches_what_it_is_told(quick_trainer: Callable[..., Trainer]) -> None:
    plateau = partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=1e9, threshold_mode="abs")
    with pytest.raises(ValueError, match="lr_monitor='val/cross_entropy/student'"):
        quick_trainer().fit(distillation(lr_scheduler=plateau), data(), data())
    watch = Watch()
    module = distillation(lr_scheduler=plateau, lr_monitor="val/cross_entropy/student")
    quick_trainer(max_epochs=4, callbacks=[watch]).fit(module, data(), data())
    assert watch.rates[::20] == pytest.approx([RATE, RATE, RATE / 2, RATE / 4])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_interval": "step"}, "there is no lr_scheduler"),
        ({"lr_monitor": "train/loss"}, "there is no lr_scheduler"),
        ({"lr_monitor": "train/loss", "lr_scheduler": partial(lr_scheduler.StepLR, step_size=1)}, "watches no metric"),
    ],
)
def test_an_option_of_the_schedule_that_does_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        distillation(**options).configure_optimizers()


def test_an_unknown_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr_interval.*epoch.*step"):
        distillation(lr_interval="batch")


def test_what_is_made_already_is_refused_with_what_to_give() -> None:
    made = SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    with pytest.raises(TypeError, match=r"optimizer is a SGD that is made already; give what makes one.*partial"):
        distillation(optimizer=made)
    with pytest.raises(TypeError, match=r"lr_scheduler is a StepLR that is made already"):
        distillation(lr_scheduler=lr_scheduler.StepLR(made, 1))
    with pytest.raises(TypeError, match="optimizer is a str"):
        distillation(optimizer="SGD")
    with pytest.raises(TypeError, match="makes a list, not an optimizer"):
        distillation(optimizer=list).configure_optimizers()


def test_lightnings_own_mapping_is_taken(quick_trainer: Callable[..., Trainer]) -> None:
    def schedule(optimizer: Any) -> Any:
        return {"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step", "frequency": 20}

    rates = fit(quick_trainer, distillation(lr_scheduler=schedule))
    assert rates[::20] == pytest.approx([RATE, RATE * 0.9])


# The learning-rate finder ----------------------------------------------------------------------------------------------


def two_groups(parameters: Any) -> SGD:
    first, *others = parameters
    return SGD([{"params": [first], "lr": 0.3}, {"params": others}], lr=RATE)


def test_the_finder_sets_what_it_found(quick_trainer: Callable[..., Trainer]) -> None:
    module = distillation(optimizer=two_groups)
    assert module.learning_rate == 0.3
    found = Tuner(quick_trainer(max_epochs=3)).lr_find(module, data(), num_training=30)
    assert found is not None
    assert module.learning_rate == found.suggestion()
    trainer = quick_trainer()
    trainer.fit(module, data())
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [found.suggestion()] * 2
    module.learning_rate = None
    assert module.learning_rate == 0.3


def test_the_finder_as_a_callback_sets_the_rate_of_its_own_fit(quick_trainer: Callable[..., Trainer]) -> None:
    skip_before("lightning", "2.6", "the finder's rate is lost when it restores its checkpoint")
    watch, finder = Watch(), LearningRateFinder(num_training_steps=30)
    module = distillation(lr_scheduler=partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch))
    quick_trainer(max_epochs=3, callbacks=[finder, watch]).fit(module, data())
    found = module.learning_rate
    assert found != RATE
    assert watch.rates[-60::20] == pytest.approx([found, found / 2, found / 4])


def test_the_finder_goes_with_layers_of_criteria_and_leaves_checkpoints_as_they_are(
    quick_trainer: Callable[..., Trainer], tmp_path: Any
) -> None:
    def module() -> FeatureDistillation:
        return FeatureDistillation(
            nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)),
            nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 3)),
            criteria={"hint": Hint("0", "0")},
            weights={"hint": 1.0},
            optimizer=sgd,
        )

    saved = []
    for rate in (None, 0.01):
        made, trainer = module(), quick_trainer()
        if rate is not None:
            Tuner(quick_trainer(max_epochs=2)).lr_find(made, data(), num_training=20)
        trainer.fit(made, data())
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        saved.append(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert saved[0].keys() == saved[1].keys()
    assert saved[0]["hyper_parameters"].keys() == saved[1]["hyper_parameters"].keys()


def test_the_rate_is_used_with_an_optimizer_that_a_config_has_made() -> None:
    module = distillation()
    optimizer = SGD(module.parameters(), lr=RATE)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch + 1))
    module.learning_rate = 0.4
    DistillationCLI.configure_optimizers(module, optimizer, schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_schedule_with_rates_of_its_own_says_that_the_rate_does_nothing() -> None:
    module = distillation()
    optimizer = SGD(module.parameters(), lr=RATE)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=4)
    module.learning_rate = 0.4
    (message,) = told(lambda: DistillationCLI.configure_optimizers(module, optimizer, schedule))
    assert "max_lr" in message


def test_the_finder_beside_a_schedule_with_rates_of_its_own_says_so(quick_trainer: Callable[..., Trainer]) -> None:
    module = distillation(lr_scheduler=partial(lr_scheduler.OneCycleLR, max_lr=RATE, total_steps=40))
    module.learning_rate = 0.01
    (message,) = told(lambda: fit(quick_trainer, module))
    assert "max_lr" in message


def test_a_configs_schedule_is_as_lightning_takes_it() -> None:
    from lightning.pytorch.cli import ReduceLROnPlateau

    module = distillation()
    optimizer = SGD(module.parameters(), lr=RATE)
    plateau = ReduceLROnPlateau(optimizer, monitor="train/loss")
    ours = DistillationCLI.configure_optimizers(module, optimizer, plateau)
    theirs = LightningCLI.configure_optimizers(module, optimizer, plateau)
    assert ours["lr_scheduler"] == {"interval": "epoch", **theirs["lr_scheduler"]}
    assert DistillationCLI.configure_optimizers(module, optimizer) is optimizer


# A student that brings its own training ------------------------------------------------------------------------------


class Own(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), 0.5)


class Trains(Own):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise AssertionError("it is not called")


def test_the_students_own_optimizer_and_step_that_are_passed_over_are_said(
    quick_trainer: Callable[..., Trainer],
) -> None:
    def run(student: nn.Module, **options: Any) -> list[str]:
        return told(lambda: fit(quick_trainer, LogitDistillation(student, nn.Linear(4, 3), **options), epochs=1))

    (message,) = run(Own())
    assert "configure_optimizers" in message
    assert "AdamW at 0.001" in message
    assert "`optimizer=`" in message
    assert "Distill(teacher)" in message
    (message,) = run(Trains())
    assert "configure_optimizers and training_step" in message
    (message,) = run(nn.Sequential(Trains()), optimizer=sgd)
    assert "training_step" in message
    assert "configure_optimizers" not in message
    assert run(Own(), optimizer=sgd) == []
    assert run(nn.Linear(4, 3)) == []


@pytest.mark.parametrize("make", [lambda: SupervisedModule(Own()), lambda: MutualDistillation([Own(), Own()])])
def test_it_is_said_by_every_module(quick_trainer: Callable[..., Trainer], make: Callable[[], Any]) -> None:
    (message,) = told(lambda: fit(quick_trainer, make(), epochs=1))
    assert "the student Own" in message
