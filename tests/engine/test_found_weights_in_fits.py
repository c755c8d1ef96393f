"""Fits whose weights are found: cut off and resumed, with options of the Trainer, evaluated, and loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, DistillationModule, HardTarget, Hint, SoftTarget
from lit_distill.criteria import LogitMSE
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.schedules import Linear
from tests.plain import Plain, quiet_trainer

Made = tuple[LightningModule, list[Callback], WeightedCriteria]


class Deep(nn.Module):
    """Three blocks, checkpointed on request, and a head."""

    def __init__(self, width: int, checkpointed: bool | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8 if not n else width, width), nn.Tanh()) for n in range(3))
        self.drop, self.head = nn.Dropout(0.2 if checkpointed is None else 0.0), nn.Linear(width, 3)
        self.checkpointed = checkpointed  # as `use_reentrant`

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_(self.checkpointed is True)  # a re-entrant checkpoint needs it
        for block in self.blocks:
            again = self.checkpointed is not None and self.training
            x = checkpoint(block, x, use_reentrant=self.checkpointed) if again else block(x)
        found: Tensor = self.head(self.drop(x))
        return found


def criteria() -> dict[str, Any]:
    return {"soft": SoftTarget(2.0), "hint": Hint("blocks.1", "blocks.1"), "mse": LogitMSE()}


def module(student: nn.Module | None = None, **options: Any) -> Made:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"weights": {"mse": 0.5, "soft": "auto"}} | options
    teacher, student = Deep(10), Deep(6) if student is None else student
    made = DistillationModule(student, teacher, {"hard": HardTarget(), **criteria()}, **settings)
    return made, [], made.criteria


def scheduled() -> Made:
    return module(
        schedules={"soft.temperature": Linear(4, 1, until=20, unit="step"), "mse.weight": Linear(1, 0, until=2)}
    )


def guest() -> Made:
    torch.manual_seed(0)
    teacher, student = Deep(10), Deep(6)
    distill = Distill(teacher, criteria(), {"mse": 0.5})
    return Plain(student, momentum=0.9), [distill], distill.criteria


class Curve(Callback):
    """The weights of every batch."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        logged = trainer.callback_metrics.items()
        self.found.append({name.rpartition("/")[2]: float(value) for name, value in logged if "/weight/" in name})


def data(batches: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    count = 8 * batches
    inputs, labels = torch.randn(count, 8, generator=generator), torch.randint(0, 3, (count,), generator=generator)
    return DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)


def fit(made: Made, folder: Path, path: Path | None = None, batches: int = 1, **options: Any) -> Curve:
    """Train for 12 epochs of a batch, or of several, with a checkpoint after each epoch."""
    curve, saving = Curve(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    seed_everything(3, verbose=False)
    settings = {"max_epochs": 12, "log_every_n_steps": 1} | options
    trainer = quiet_trainer(callbacks=[*made[1], saving, curve], **settings)
    trainer.fit(made[0], data(batches), ckpt_path=path)
    return curve


def state(made: Made) -> dict[str, Tensor]:
    return {**made[0].state_dict(), **{f"criteria.{name}": value for name, value in made[2].state_dict().items()}}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (module, {}),
        (guest, {}),
        pytest.param(scheduled, {}, marks=pytest.mark.slow),
        pytest.param(module, {"batches": 2, "accumulate_grad_batches": 2}, marks=pytest.mark.slow),
        pytest.param(guest, {"batches": 2, "accumulate_grad_batches": 2}, marks=pytest.mark.slow),
    ],
    ids=["module", "Distill", "scheduled", "accumulated", "accumulated in Distill"],
)
def test_a_fit_that_goes_on_from_a_checkpoint_equals_a_whole_one(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    make: Callable[[], Made],
    options: dict[str, Any],
) -> None:
    """Also from a checkpoint in the first three batches, and from one between two measurements."""
    whole = make()
    with caplog.at_level("INFO"):
        curve = fit(whole, tmp_path, **options)
    assert caplog.text.count("Weights found in training: ") == 1
    caplog.clear()
    assert len({tuple(weights.values()) for weights in curve.found}) >= 3  # refined in batches 1, 3, 7, …
    expected = state(whole)
    for epoch in (0, 1, 6):
        resumed = make()
        with caplog.at_level("INFO"):
            again = fit(resumed, tmp_path / str(epoch), tmp_path / f"epoch={epoch}.ckpt", **options)
        found = state(resumed)
        assert expected.keys() == found.keys()
        assert not [name for name in expected if not torch.equal(expected[name], found[name])]
        assert again.found == curve.found[(epoch + 1) * options.get("batches", 1) :]
    assert "Weights found" not in caplog.text  # they are not new
    assert not [warning for warning in recwarn if "gone wrong" in str(warning.message)]


def found_by(made: Made, folder: Path, **options: Any) -> dict[str, float]:
    return fit(made, folder, max_epochs=1, **options).found[0]


@pytest.mark.parametrize(
    ("student", "precision", "closeness"),
    [
        (Deep(6, checkpointed=False), "32-true", 1e-5),
        (Deep(6), "bf16-mixed", 0.05),
        (Deep(6), "64-true", 1e-5),
    ],
    ids=["gradient checkpointing", "bf16-mixed", "64-true"],
)
def test_the_way_of_computing_changes_no_weight(
    tmp_path: Path, student: Deep, precision: Any, closeness: float
) -> None:
    plain = Deep(6)
    plain.load_state_dict(student.state_dict())
    plain.drop.p = student.drop.p = 0.0
    expected = found_by(module(plain), tmp_path)
    assert found_by(module(student), tmp_path, precision=precision) == pytest.approx(expected, rel=closeness)


def test_gradient_checkpointing_that_allows_no_measurement_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="needs gradients apart .*use_reentrant=True does not allow: checkpoint with use_reentrant=False",
    ):
        fit(module(Deep(6, checkpointed=True)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fast", "compiled"])
def test_a_compiled_student_has_the_weights_of_another(tmp_path: Path, how: str) -> None:
    torch.compiler.reset()
    plain, student = Deep(6), Deep(6)
    student.load_state_dict(plain.state_dict())
    plain.drop.p = student.drop.p = 0.0
    expected = fit(module(plain), tmp_path).found
    made = module(student, fast=True) if how == "fast" else module(torch.compile(student, backend="aot_eager"))
    found = fit(made, tmp_path).found
    torch.compiler.reset()
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=0.05 if how == "fast" else 1e-4)


def test_a_module_that_is_loaded_evaluates_alike_and_keeps_the_weights(tmp_path: Path) -> None:
    made = module()
    fit(made, tmp_path)
    path = tmp_path / "epoch=11.ckpt"
    loaded = DistillationModule.load_from_checkpoint(
        path, student=Deep(6), teacher=made[0].teacher, criteria={"hard": HardTarget(), **criteria()}
    )
    assert loaded.criteria.given_weights == made[2].given_weights
    assert loaded.criteria.balance.known() == made[2].balance.known()  # type: ignore[union-attr]
    for verb in ("validate", "test"):
        both = [getattr(quiet_trainer(), verb)(one, data(3), verbose=False) for one in (made[0], loaded)]
        assert both[0][0] == pytest.approx(both[1][0], rel=1e-5)  # the samples come in another order
        assert both[0][0]


def test_a_checkpoint_from_before_trains_on_and_finds_the_weights(tmp_path: Path) -> None:
    fit(
        (
            DistillationModule(
                Deep(6), Deep(10), {"hard": HardTarget(), **criteria()}, {"hard": 1, "soft": 1, "hint": 1, "mse": 0.5}
            ),
            [],
            None,
        ),
        tmp_path,
        max_epochs=2,
    )  # type: ignore[arg-type]
    made = module()
    with pytest.warns(UserWarning, match="weights.soft: the checkpoint was made with 1.0, this run has 'auto'"):
        found = fit(made, tmp_path, tmp_path / "epoch=1.ckpt").found
    assert len(found) == 10
    assert found[0]["soft"] not in (0.0, 1.0)


@pytest.mark.parametrize("change", ["other", "order"])
@pytest.mark.filterwarnings("ignore:weights")
def test_a_weight_found_for_one_criterion_is_never_anothers(tmp_path: Path, change: str) -> None:
    numbers: dict[str, Any] = {"mse": 0.5, "soft": 1.0} if change == "other" else {"mse": 0.5}
    first = fit(module(weights=numbers), tmp_path, max_epochs=2)
    torch.manual_seed(0)
    second = {"hard": HardTarget(), **dict(reversed(criteria().items()))} if change == "order" else None
    weights: dict[str, Any] = {"mse": 0.5} if change == "order" else {"mse": 0.5, "hint": 1.0}
    made = DistillationModule(Deep(6), Deep(10), second or {"hard": HardTarget(), **criteria()}, weights)
    found = fit((made, [], made.criteria), tmp_path, tmp_path / "epoch=1.ckpt").found
    before = first.found[-1]
    assert int(made.criteria.balance.seen[0]) == len(found)  # type: ignore[union-attr, index]
    assert found[0]["soft"] not in (0.0, before["hint"])


@pytest.mark.parametrize("weights", [{}, {"soft": 0.7, "hint": 0.2, "mse": 0.5}])
def test_strength_doubles_the_teachers_part_and_0_turns_it_off(tmp_path: Path, weights: dict[str, float]) -> None:
    found = {}
    for strength in (1.0, 2.0, 0.0):
        found[strength] = fit(module(weights=weights, strength=strength), tmp_path, max_epochs=1).found[0]
    taught = ("soft", "hint", "mse")
    once, twice = ([found[s][name] / found[s]["hard"] for name in taught] for s in (1.0, 2.0))
    assert twice == pytest.approx([2 * ratio for ratio in once], rel=1e-6)
    assert found[0.0] == {"hard": 1.0, "soft": 0.0, "hint": 0.0, "mse": 0.0}


@pytest.mark.parametrize(
    ("weights", "optimizer", "warns"),
    [
        ({"hard": 1.0}, torch.optim.SGD, True),
        ({"hard": 1.0}, torch.optim.AdamW, False),
        ({}, torch.optim.SGD, False),
        ({"hard": 1.0, "soft": 0.5, "hint": 0.5, "mse": 0.5}, torch.optim.SGD, False),
    ],
)
def test_sgd_is_warned_of_a_gradient_that_labels_with_a_number_make_longer(
    tmp_path: Path, weights: dict[str, float], optimizer: Any, warns: bool, recwarn: pytest.WarningsRecorder
) -> None:
    fit(module(weights=weights, optimizer=partial(optimizer, lr=1e-3)), tmp_path, max_epochs=1)
    said = [str(one.message) for one in recwarn if "times as long" in str(one.message)]
    assert len(said) == warns
    assert all("Leave the weight of hard out as well" in one and "up to 10 times" in one for one in said)
