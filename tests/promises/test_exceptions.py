"""An error leaves the Trainer, the data and the networks as they were, and they can be used again."""

from __future__ import annotations

import copy
import signal
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    CombinedDistillation,
    Distill,
    EMATeacher,
    FeatureDistillation,
    GradientNorm,
    Hint,
    JointTeacher,
    LogitDistillation,
    MutualDistillation,
    RecordedTeacher,
    SelfDistillation,
    SoftTarget,
)
from lit_distill.callbacks import Unfreeze
from tests.promises.conftest import Tally

pytestmark = pytest.mark.slow

AS_BEFORE = "an error leaves trainer, data and networks as they were, and they train again"


class Fault(RuntimeError):
    """What goes wrong in these tests."""


# What is compared ----------------------------------------------------------------------------------


def _hooks(module: nn.Module) -> dict[str, int]:
    return {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks")}


_PASSING = {
    "_trainer",
    "_fabric",
    "_current_fx_name",
    "_metric_attributes",
    "_param_requires_grad_state",
    "_device",
    "_dtype",
    "_hparams",
}


def of_network(network: nn.Module) -> dict[str, Any]:
    """What must be the same of a network after an error: all that is no weight."""
    found: dict[str, Any] = {}
    for name, child in network.named_modules():
        found[f"{name} modes"] = child.training
        found[f"{name} hooks"] = _hooks(child)
        found[f"{name} attributes"] = sorted(set(vars(child)) - _PASSING)
        found[f"{name} compiled"] = child._compiled_call_impl
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        found[f"{name} tensor"] = (tensor.requires_grad, tensor.dtype, tensor.stride(), tensor.device)
    return found


def of_process() -> dict[str, Any]:
    return {
        "handlers": {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)},
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "filters": list(warnings.filters),
    }


def of_set_up(trainer: Any, module: Any, data: Any, teacher: nn.Module) -> dict[str, Any]:
    source = trainer.fit_loop._data_source
    found = {f"module: {key}": value for key, value in of_network(module).items() if "_rest" not in key}
    found |= {f"teacher: {key}": value for key, value in of_network(teacher).items()}
    return {
        **found,
        **of_process(),
        "datamodule": sorted(set(vars(data)) - {"trainer", "_trainer"}),
        "loader": {key: id(value) for key, value in vars(data.loader).items() if "__pl" not in key},
        "trainer": sorted(
            set(vars(trainer)) - {"_last_val_time", "val_check_batch"}
        ),  # Lightning's own, set in its first fit
        "callbacks": [type(callback).__name__ for callback in trainer.callbacks if not _attends(callback)],
        "connector": sorted(vars(trainer._signal_connector)),
        "source": (type(source).__name__, sorted(vars(source))),
        "loop": sorted(vars(trainer.fit_loop)),
        "strategy": sorted(vars(trainer.strategy)),
    }


def _attends(callback: object) -> bool:
    return type(callback).__name__ in ("EarlyHooks", "Throughput")


# What is set up --------------------------------------------------------------------------------------


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3))


def make_data(package: Any, fault: Callable[[str], None]) -> Any:
    class Data(package.LightningDataModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.loader = DataLoader(TensorDataset(torch.randn(24, 8), torch.randint(0, 3, (24,))), 8, shuffle=True)

        def setup(self, stage: str) -> None:
            fault("data setup")

        def train_dataloader(self) -> Any:
            fault("loader")
            return self.loader

        def val_dataloader(self) -> Any:
            return self.loader

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            fault("transfer in training" if self.trainer.training else "transfer")
            return batch

    return Data()


def make_theirs(package: Any) -> Any:
    class Theirs(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = network(6)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", F.cross_entropy(self.model(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=0.1)

    return Theirs()


HINT = {"hint": 1.0, "soft": 1.0}


def hints() -> dict[str, Any]:
    return {"hint": Hint("2", "2"), "soft": SoftTarget()}


SCHEMES = [
    "logit",
    "feature",
    "combined",
    "mutual",
    "self",
    "ema",
    "joint",
    "recorded",
    "distill",
    "distill other",
    "unfreeze",
]


def make(scheme: str, fault: Callable[[str], None]) -> tuple[Any, Any, nn.Module, list[Any], Any]:
    """A package, a module, its teacher, the callbacks and the data of a scheme."""
    torch.manual_seed(0)
    teacher, student = network(10).eval().requires_grad_(False), network(6)
    package = pytorch_lightning if scheme == "distill other" else lightning.pytorch
    callbacks: list[Any] = []
    if scheme.startswith("distill"):
        module = make_theirs(package)
        callbacks.append(Distill(teacher, hints(), {"soft": 0.9, "hint": 0.5}))
    elif scheme in ("logit", "unfreeze"):
        module = LogitDistillation(student, teacher)
        callbacks += [Unfreeze(["0", "1"], epoch=5)] if scheme == "unfreeze" else []
    elif scheme == "feature":
        module = FeatureDistillation(student, teacher, criteria={"hint": Hint("2", "2")}, weights={"hint": 1.0})
    elif scheme == "combined":
        module = CombinedDistillation(
            student, teacher, criteria=hints(), weights=HINT, balance=GradientNorm("soft", every=1)
        )
    elif scheme == "mutual":
        module = MutualDistillation([student, network(6)])
    elif scheme == "self":
        module = SelfDistillation(student, student_layer="2")
    elif scheme == "ema":
        module = LogitDistillation(student, EMATeacher())
    elif scheme == "joint":
        module = CombinedDistillation(
            student, JointTeacher(teacher.train().requires_grad_(True)), criteria=hints(), weights=HINT
        )
    else:
        module = LogitDistillation(student, RecordedTeacher(teacher))
    return package, module, teacher, callbacks, make_data(package, fault)


POINTS = [
    "data setup",
    "loader",
    "transfer",
    "transfer in training",
    "setup",
    "on_fit_start",
    "on_sanity_check_start",
    "on_validation_batch_end",
    "on_train_start",
    "on_train_batch_start",
    "on_after_backward",
    "on_train_batch_end",
    "on_validation_epoch_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "student",
    "student in validation",
]


def failing(package: Any, fault: Callable[[str], None]) -> Any:
    callback = package.Callback()
    for point in POINTS:
        if hasattr(callback, point):
            setattr(callback, point, lambda *rest, point=point, **options: fault(point))
    return callback


def inner(module: Any) -> nn.Module:
    return module.model if hasattr(module, "model") else module.student


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_error_at_any_point_leaves_all_as_it_was(tmp_path: Any, scheme: str, tally: Tally) -> None:
    every = (
        1 if scheme in ("combined", "distill") else 4
    )  # all points for a module and a callback, some for each scheme
    cases = [(point, Fault) for point in POINTS[SCHEMES.index(scheme) % every :: every]]
    cases += [(point, KeyboardInterrupt) for point in POINTS[4::9]]
    found: dict[str, Any] = {}
    for point, kind in cases:
        found |= check(scheme, point, kind, tmp_path)
    assert not found
    tally(AS_BEFORE, len(cases))


def _difference(before: Any, after: Any) -> Any:
    if isinstance(before, list) and isinstance(after, list) and all(isinstance(one, str) for one in before):
        return set(before) ^ set(after)
    return None if before == after else (before, after)


def check(scheme: str, point: str, kind: type[BaseException], folder: Any) -> dict[str, Any]:
    broken = True
    count = 0

    def fault(here: str) -> None:
        nonlocal count
        if broken and here == point:
            count += 1
            raise kind(here)

    package, module, teacher, callbacks, data = make(scheme, fault)
    network = next((child for child in inner(module).modules() if isinstance(child, nn.Linear)), None)
    if point.startswith("student"):

        def step(_: Any, inputs: Any) -> None:
            fault("student" if inner(module).training else "student in validation")

        assert network is not None
        network.register_forward_pre_hook(step)
    trainer = package.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[*callbacks, failing(package, fault)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    before = of_set_up(trainer, module, data, teacher)
    with pytest.raises((Fault, ValueError, SystemExit)):
        trainer.fit(module, datamodule=data)
    broken = False
    assert count, point
    after = of_set_up(trainer, module, data, teacher)
    differs = {key: _difference(before.get(key), after.get(key)) for key in {*before, *after}}
    differs = {key: value for key, value in differs.items() if value}
    differs = {key: value for key, value in differs.items() if "projectors" not in key and "criteria" not in key}
    trainer.fit(module, datamodule=data)
    assert trainer.state.finished
    assert all(bool(torch.isfinite(parameter).all()) for parameter in inner(module).parameters())
    return {f"{scheme}, {kind.__name__} at {point}": differs} if differs else {}


def test_figures_of_a_validation_that_failed_are_in_no_later_one(quick_trainer: Any, tally: Tally) -> None:
    """The half of an epoch that was counted before the error must not be counted again."""
    for scheme in ("logit", "distill"):
        broken = {"yes"}

        def fault(here: str, broken: set[str] = broken) -> None:
            if broken and here == "on_validation_batch_end":
                raise Fault

        _, module, _, callbacks, data = make(scheme, fault)
        module.eval()
        trainer = quick_trainer(callbacks=[*callbacks, failing(lightning.pytorch, fault)])
        with pytest.raises(Fault):
            trainer.validate(module, data.loader, verbose=False)
        broken.clear()
        images, labels = data.loader.dataset.tensors
        wanted = float((inner(module)(images).argmax(1) == labels).float().mean())
        found = trainer.validate(module, data.loader, verbose=False)[0]
        name = "val/accuracy/student" if scheme == "logit" else "distill/val/accuracy/student"
        assert found[name] == pytest.approx(wanted, abs=1e-6)
    tally(AS_BEFORE, 2)


def test_a_checkpoint_that_an_error_makes_holds_what_distill_added(quick_trainer: Any, tmp_path: Any) -> None:
    def fault(here: str) -> None:
        if here == "on_train_epoch_end":
            raise Fault

    _, module, _, callbacks, data = make("distill", fault)
    saving = lightning.pytorch.callbacks.OnExceptionCheckpoint(tmp_path)
    trainer = quick_trainer(
        callbacks=[saving, *callbacks, failing(lightning.pytorch, fault)], enable_checkpointing=True
    )
    with pytest.raises(Fault):
        trainer.fit(module, datamodule=data)
    saved = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)
    assert any("projectors" in name for name in saved["state_dict"])
    assert not hasattr(module, "lit_distill")
    copy.deepcopy(module)
