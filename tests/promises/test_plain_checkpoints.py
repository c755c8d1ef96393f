"""Numbers of NumPy, given for any setting, never reach a checkpoint as objects; and a run that is another says so."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn

from lit_distill import Distill, DistillationModule, GradientNorm, HardTarget, LogitDistillation, SoftTarget, criteria
from lit_distill.criteria import Criterion
from lit_distill.schedules import Linear
from lit_distill.teachers.digest import network_digest
from lit_distill.utils.notices import DistillationWarning
from lit_distill.utils.plain import as_plain, make_scalars_plain, without_numpy_scalars
from tests.promises.conftest import Tally
from tests.promises.test_foreign_files import batches, network, steps, trainer

PLAIN = "NumPy's scalars never reach a checkpoint"
TOLD = "a resumed run with other settings says so"
SCALARS: list[Callable[[float], Any]] = [np.float32, np.float64, np.float16, lambda value: np.array(value)]
CLASSES = sorted(
    (
        one
        for one in vars(criteria).values()
        if inspect.isclass(one) and issubclass(one, Criterion) and not inspect.isabstract(one)
    ),
    key=lambda one: one.__name__,
)
NEEDED = {"student_layer": "0", "teacher_layer": "0", "student_head": "0", "deepest_layer": "2"}
NEEDED |= {"student_layers": ["0"], "teacher_layers": ["0"], "peers": ["0", "2"]}
MADE: dict[type[Criterion], Callable[[], Criterion]] = {
    criteria.HardDistillation: lambda: criteria.HardDistillation(),
    criteria.SDD: lambda: criteria.SDD("0", "0", np.float64(4.0), np.float32(2.0)),  # type: ignore[arg-type]
}


def with_numpy(kind: type[Criterion]) -> Criterion:
    """A criterion all of whose numbers are NumPy's."""
    if kind in MADE:
        return MADE[kind]()
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        default = parameter.default
        if isinstance(default, float):
            arguments[name] = np.float64(default)
        elif type(default) is int:
            arguments[name] = np.int64(default)
        elif isinstance(default, tuple) and default and all(isinstance(one, (int, float)) for one in default):
            arguments[name] = tuple(np.float32(one) for one in default)
        elif name in NEEDED and default in (inspect.Parameter.empty, None):
            arguments[name] = NEEDED[name]
        elif name == "criterion":
            arguments[name] = SoftTarget(np.float32(2.0))
    return kind(**arguments)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_criterions_settings_are_saved_as_plain_types(
    tmp_path: Path, kind: type[Criterion], tally: Tally
) -> None:
    criterion = with_numpy(kind)
    weights = {"one": np.float32(0.5), "hard": np.int64(1)}
    made = DistillationModule(network(), network(), {"one": criterion, "hard": HardTarget()}, weights)  # type: ignore[arg-type]
    made.distiller.checkpoint_entry.record_settings(made.criteria, made._teacher)
    content: dict[str, Any] = {"hyper_parameters": dict(made.hparams), "state_dict": made.state_dict()}
    made.distiller.checkpoint_entry.write(content, made.criteria, this_rank_only=True)
    make_scalars_plain(content)
    torch.save(content, tmp_path / "own.ckpt")
    found = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert found["hyper_parameters"]["weights"] == {"one": 0.5, "hard": 1.0}
    numbers = list(found["lit_distill"]["settings"]["criteria"]["one"].values())
    assert not any(isinstance(value, np.generic) for value in numbers)
    tally(PLAIN)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.filterwarnings("ignore:this run differs")
def test_a_fit_with_numbers_of_numpy_saves_resumes_and_loads(tmp_path: Path, scalar: Any, tally: Tally) -> None:
    def make() -> LogitDistillation:
        return LogitDistillation(
            network(),
            network(),
            temperature=np.linspace(1, 8, 8)[3] if scalar is np.float64 else scalar(4.0),
            weights={"hard": scalar(0.5), "soft": scalar(1.0)},
            schedules={"soft.temperature": Linear(scalar(4.0), scalar(2.0), until=np.int64(2))},
            balance=GradientNorm("hard", ratio=float(scalar(1.0)), every=np.int64(1)),  # type: ignore[arg-type]
            optimizer=partial(torch.optim.SGD, lr=scalar(0.125), momentum=np.float32(0.5)),
            lr_scheduler=partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[np.int64(1)], gamma=scalar(0.5)),
        )

    run = trainer(tmp_path)
    run.fit_loop.max_epochs = 1
    run.fit(make(), batches())
    run.save_checkpoint(tmp_path / "own.ckpt")
    found = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert found["hyper_parameters"]["temperature"] == 4.0
    assert found["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.125
    assert found["lr_schedulers"][0]["milestones"] == Counter({1: 1})
    trainer(tmp_path).fit(make(), batches(), ckpt_path=tmp_path / "own.ckpt")
    parts = {"student": network(), "teacher": network(), "balance": GradientNorm("hard")}
    LogitDistillation.load_from_checkpoint(tmp_path / "own.ckpt", **parts)
    tally(PLAIN)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.filterwarnings("ignore:this run differs")
def test_so_does_a_module_with_distill(tmp_path: Path, scalar: Any, tally: Tally) -> None:
    class Rated(steps(LightningModule)):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=scalar(0.125))
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, np.int64(1), gamma=scalar(0.5))]  # type: ignore[arg-type]

    def guest() -> Distill:
        return Distill(network(), {"soft": SoftTarget(scalar(4.0))}, {"soft": scalar(0.5), "task": scalar(1.0)})

    saved_fit(tmp_path, Rated(), [guest()]).rename(tmp_path / "own.ckpt")
    found = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert found["lit_distill"]["settings"]["criteria"]["soft"]["temperature"] == 4.0
    trainer(tmp_path, callbacks=[guest()]).fit(Rated(), batches(), ckpt_path=tmp_path / "own.ckpt")
    tally(PLAIN)


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
        (Fraction(1, 2), 0.5),
        (Decimal("0.25"), 0.25),
        (Colour.RED, "red"),
        (Path("a/b"), "a/b"),
        ((np.int64(1), [np.int64(2)]), (1, [2])),
        ({np.int64(1): {"a": np.float64(2)}}, {1: {"a": 2.0}}),
        ({np.int64(1)}, {1}),
        (None, None),
    ],
)
def test_values_and_their_plain_forms(given: Any, plain: Any) -> None:
    found = as_plain(given)
    assert found == plain
    assert type(found) is type(plain)


def test_what_is_plain_stays_the_same_object() -> None:
    for value in ({"a": [1, (2.0, "x")], "b": torch.ones(2)}, Counter("abc"), [partial(int)], nn.Linear(1, 1)):
        assert as_plain(value) is value
        assert without_numpy_scalars(value) is value


# What a run that goes on says --------------------------------------------------------------------------------------


class Saves(Callback):
    """Saves at the end of the first epoch, while ``Distill`` is still there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)


def saved_fit(folder: Path, module: Any, callbacks: Any = ()) -> Path:
    path = folder / "before.ckpt"
    run = trainer(folder, callbacks=[*callbacks, Saves(path)])
    run.fit_loop.max_epochs = 1
    run.fit(module, batches())
    return path


def said(action: Callable[[], Any]) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    lines = [str(one.message) for one in caught if issubclass(one.category, DistillationWarning)]
    return "\n".join(line for line in lines if "differs from the one that it continues" in line)


class Other(nn.Sequential):
    """A network of another class."""


def other_weights(teacher: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(teacher.parameters())[0, 0] += 1
    return teacher


def swapped(teacher: nn.Module) -> nn.Module:
    with torch.no_grad():
        weight = next(teacher.parameters())
        weight[:2] = weight[[1, 0]]
    return teacher


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": (
        {"temperature": 8.0},
        "criteria.soft.temperature: the checkpoint was made with 4.0, this run has 8.0",
    ),
    "weight": (
        {"weights": {"hard": 0.5, "soft": 0.9}},
        "weights.hard: the checkpoint was made with 0.1, this run has 0.5",
    ),
    "schedule": (
        {"schedules": {"soft.weight": Linear(1.0, 0.5, 3)}},
        "schedules.soft.weight: the checkpoint was made with none",
    ),
    "criterion": (
        {"criteria": {"hard": HardTarget(0.1), "soft": SoftTarget()}, "weights": {"hard": 0.1, "soft": 0.9}},
        "criteria.hard.label_smoothing: the checkpoint was made with 0.0, this run has 0.1",
    ),
}


def teachers() -> dict[str, nn.Module]:
    def same() -> nn.Module:
        torch.manual_seed(5)
        return network()

    return {"same": same(), "weight": other_weights(same()), "rows": swapped(same()), "class": Other(*same())}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_module_that_is_set_otherwise_says_so(tmp_path: Path, kind: str, tally: Tally) -> None:
    path = saved_fit(tmp_path, LogitDistillation(network(), teachers()["same"]))
    options, words = CHANGES[kind]
    found = said(
        lambda: trainer(tmp_path).fit(
            LogitDistillation(network(), teachers()["same"], **options), batches(), ckpt_path=path
        )
    )
    assert words in found, found
    assert "teacher" not in found
    tally(TOLD)


@pytest.mark.parametrize("door", ["module", "Distill"])
@pytest.mark.parametrize("kind", ["same", "weight", "rows", "class"])
def test_another_teacher_is_told(tmp_path: Path, kind: str, door: str, tally: Tally) -> None:
    def fit(teacher: nn.Module, path: Path | None) -> Any:
        if door == "module":
            return trainer(tmp_path).fit(LogitDistillation(network(), teacher), batches(), ckpt_path=path)
        return trainer(tmp_path, callbacks=[Distill(teacher)]).fit(steps(LightningModule)(), batches(), ckpt_path=path)

    first = teachers()["same"]
    if door == "module":
        path = saved_fit(tmp_path, LogitDistillation(network(), first))
    else:
        path = saved_fit(tmp_path, steps(LightningModule)(), [Distill(first)])
    found = said(lambda: fit(teachers()[kind], path))
    words = {"same": "", "class": "this run has a 'tests.promises.test_plain_checkpoints.Other'"}.get(
        kind, "other weights"
    )
    assert words in found
    assert bool(found) == (kind != "same"), found
    tally(TOLD)


def test_a_temperature_with_distill_is_told(tmp_path: Path, tally: Tally) -> None:
    def guest(temperature: float) -> Distill:
        return Distill(teachers()["same"], {"soft": SoftTarget(temperature)}, {"soft": 1.0, "task": 1.0})

    path = saved_fit(tmp_path, steps(LightningModule)(), [guest(4.0)])
    run = trainer(tmp_path, callbacks=[guest(8.0)])
    assert "criteria.soft.temperature: the checkpoint was made with 4.0" in said(
        lambda: run.fit(steps(LightningModule)(), batches(), ckpt_path=path)
    )
    tally(TOLD)


def test_a_checkpoint_from_before_these_notes_goes_on(tmp_path: Path) -> None:
    path = saved_fit(tmp_path, LogitDistillation(network(), network()))
    content = torch.load(path, weights_only=True)
    del content["lit_distill"]["settings"], content["lit_distill"]["teacher"]
    torch.save(content, path)
    assert not said(lambda: trainer(tmp_path).fit(LogitDistillation(network(), network()), batches(), ckpt_path=path))


def test_a_digest_depends_on_names_types_places_and_buffers() -> None:
    torch.manual_seed(0)
    base = nn.BatchNorm1d(4)
    marks = {network_digest(base)}
    for change in (
        lambda: base.double(),
        lambda: base.float().running_mean.add_(1),
        lambda: base.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda: base.weight.data.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0])),
        lambda: base.register_buffer("more", torch.zeros(1), persistent=False),
    ):
        change()
        marks.add(network_digest(base))
    assert len(marks) == 6
    assert network_digest(base) == network_digest(base)
