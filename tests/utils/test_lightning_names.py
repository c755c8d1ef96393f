"""Lightning's classes are told by either of its names."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, LogitDistillation, SoftTarget
from lit_distill.doctor import examine
from lit_distill.optim import DOT
from lit_distill.utils.lightning_names import (
    classes_named,
    is_a,
    is_module,
    is_overridden,
    keeps_parameters_whole,
    trainer_class,
)

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def package(name: str) -> Any:
    return importlib.import_module(name)


def host(name: str, optimizer: Any = torch.optim.SGD) -> Any:
    """A classifier of the one package or the other."""

    class Own(package(name).LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.log("inside", x.mean())
            return self.model(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters(), lr=0.1)

    return Own()


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(8, 4), torch.randint(0, 3, (8,))), batch_size=4)


def quiet(name: str, folder: Path, **options: Any) -> Any:
    silent: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    silent |= {"enable_checkpointing": False, "accelerator": "cpu", "max_epochs": 1, "default_root_dir": folder}
    return package(name).Trainer(**{**silent, **options})


@pytest.mark.parametrize("name", PACKAGES)
class TestBothNames:
    def test_modules_and_what_they_override(self, name: str) -> None:
        module = host(name)
        assert is_module(module)
        assert not is_module(module.model)
        assert is_overridden("training_step", module)
        assert not is_overridden("validation_step", module)
        assert not is_overridden("no_such_hook", module)
        assert not is_overridden("training_step", module.model)

    def test_callbacks_and_data_modules(self, name: str) -> None:
        assert is_a(package(name).Callback(), "Callback")
        assert is_a(package(name).LightningDataModule(), "LightningDataModule")
        assert is_overridden("on_fit_start", Distill(nn.Linear(1, 1)))

    def test_strategies(self, name: str) -> None:
        strategies = package(f"{name}.strategies")
        assert keeps_parameters_whole(strategies.SingleDeviceStrategy())
        assert keeps_parameters_whole(strategies.DDPStrategy())
        assert not keeps_parameters_whole(strategies.FSDPStrategy())

    def test_the_trainer_of_a_module(self, name: str) -> None:
        assert trainer_class(host(name)) is package(name).Trainer

    def test_an_optimizer_that_wants_the_gradients_apart(self, name: str, tmp_path: Path) -> None:
        module = host(name, DOT)
        quiet(name, tmp_path, callbacks=[Distill(nn.Linear(4, 3), {"soft": SoftTarget()}, {"soft": 1.0})]).fit(
            module, data()
        )

    def test_sharding_strategies_are_refused_where_there_are_projectors(self, name: str) -> None:
        from lit_distill.callbacks.distill.host import check_strategy

        class Running:
            strategy = package(f"{name}.strategies").FSDPStrategy()

        with pytest.raises(ValueError, match="do not work under FSDPStrategy"):
            check_strategy(Running(), nn.Linear(1, 1))  # type: ignore[arg-type]

    def test_the_doctor(self, name: str) -> None:
        guest = Distill(nn.Linear(4, 3))
        findings = examine(host(name), data(), {"callbacks": [guest], "accelerator": "cpu"}, 2)
        assert [finding for finding in findings if finding.check == "run"] == []

    @pytest.mark.parametrize("role", ["student", "teacher"])
    @pytest.mark.filterwarnings("ignore:the student Own is a LightningModule")
    def test_as_a_network_in_a_distillation_module(self, name: str, role: str, tmp_path: Path) -> None:
        networks = {"student": nn.Linear(4, 3), "teacher": nn.Linear(4, 3), role: host(name)}
        module = LogitDistillation(networks["student"], networks["teacher"])
        quiet("lightning.pytorch", tmp_path).fit(module, data(), data())


def test_a_class_that_a_package_lacks() -> None:
    assert classes_named("NoSuchThing") == ()
    assert not is_a(1, "NoSuchThing", "no.such.Thing")


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_a_distillation_module_in_the_other_trainer_is_told_which_one_it_needs(method: str, tmp_path: Path) -> None:
    trainer = quiet("pytorch_lightning", tmp_path)
    module = LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3))
    with pytest.raises(TypeError, match=r"LogitDistillation.*from lightning\.pytorch import Trainer"):
        getattr(trainer, method)(module, data())


def test_the_other_trainer_still_takes_its_own_modules(tmp_path: Path) -> None:
    LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3))
    quiet("pytorch_lightning", tmp_path).fit(host("pytorch_lightning"), data())
    with pytest.raises(TypeError, match="must be a `LightningModule`"):
        quiet("pytorch_lightning", tmp_path).fit(nn.Linear(4, 3), data())


@pytest.mark.slow
def test_the_other_package_is_not_imported_by_ours() -> None:
    code = "import sys, lit_distill; sys.exit('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


assert lightning.pytorch.LightningModule is not pytorch_lightning.LightningModule
