"""Checkpoints that hold Python objects load and are stripped where their maker is trusted, and nowhere else."""

from __future__ import annotations

import argparse
import functools
import pickle
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, Hint, load
from lit_distill.callbacks import strip_file
from lit_distill.callbacks.distill import strip as stripping
from lit_distill.cli.command import main
from lit_distill.models import MLP, SmallCNN


class Settings:
    """A class of the user's own."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.rate == other.rate

    def __hash__(self) -> int:
        return hash(self.rate)


class Runs:
    """Runs a command when it is unpickled by anything that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


OBJECTS: dict[str, tuple[Any, str]] = {
    "partial": (functools.partial(torch.optim.SGD, lr=0.1), r"functools\.partial"),
    "class": (nn.Linear, r"torch\.nn\.modules\.linear\.Linear"),
    "Namespace": (argparse.Namespace(lr=0.1), r"argparse\.Namespace"),
    "own class": (Settings(0.1), r"Settings"),
    "default dict": (defaultdict(int, a=1), r"collections\.defaultdict"),
    "path": (Path("data"), r"pathlib"),
    "module": (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
}


def network(width: int = 4) -> MLP:
    return MLP(16, (width,))


def checkpoint(value: Any, **more: Any) -> dict[str, Any]:
    state = {f"model.{name}": tensor for name, tensor in network().state_dict().items()}
    return {"state_dict": state, "epoch": 3, "hyper_parameters": {"setting": value}, **more}


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("kind", OBJECTS)
def test_load_refuses_objects_by_name_and_reads_them_where_trusted(tmp_path: Path, kind: str, modern: bool) -> None:
    value, name = OBJECTS[kind]
    saved, path = checkpoint(value), tmp_path / "theirs.ckpt"
    torch.save(saved, path, _use_new_zipfile_serialization=modern)
    model = network()
    with pytest.raises(
        ValueError, match=rf"theirs.ckpt holds Python objects.*could run code.*{name}.*trust=True"
    ) as caught:
        load(model, path)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load(model, path, trust=True) is model
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved["state_dict"][f"model.{key}"])


def test_a_plain_file_is_read_without_running_anything_even_where_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(checkpoint(0.1), tmp_path / "plain.ckpt")
    asked: list[Any] = []
    original = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *args, **named: (asked.append(named["weights_only"]), original(*args, **named))[1]
    )
    load(network(), tmp_path / "plain.ckpt", trust=True)
    assert asked == [True]


def test_nothing_is_run_unless_trusted(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "theirs.ckpt"
    torch.save(checkpoint(Runs(marker)), path)
    for action in (
        lambda: load(network(), path),
        lambda: strip_file(path, tmp_path / "out.ckpt"),
        lambda: main(["strip", str(path), str(tmp_path / "out.ckpt")]),
    ):
        with pytest.raises((ValueError, SystemExit), match="could run code"):
            action()
        assert not marker.exists()
    load(network(), path, trust=True)
    assert marker.exists()


@pytest.mark.parametrize("where", ["alone", "model", "net"])
def test_a_whole_module_gives_its_weights_where_trusted(tmp_path: Path, where: str) -> None:
    theirs, model = network(), network()
    torch.save(theirs if where == "alone" else {where: theirs, "epoch": 1}, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"MLP.*trust=True"):
        load(model, tmp_path / "whole.pt")
    load(model, tmp_path / "whole.pt", trust=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))


def test_a_class_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = types.ModuleType("absent_package")
    absent.Config = type("Config", (), {"__module__": "absent_package"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "absent_package", absent)
    torch.save(checkpoint(absent.Config()), tmp_path / "theirs.ckpt")
    monkeypatch.delitem(sys.modules, "absent_package")
    with pytest.raises(ValueError, match=r"absent_package\.Config"):
        load(network(), tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match=r"cannot be imported here.*absent_package.*install"):
        load(network(), tmp_path / "theirs.ckpt", trust=True)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("trust", [False, True])
def test_damage_is_said_as_such(tmp_path: Path, trust: bool) -> None:
    path = tmp_path / "theirs.ckpt"
    torch.save(checkpoint(argparse.Namespace(lr=0.1)), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        load(network(), path, trust=trust)
    path.write_bytes(pickle.dumps("no checkpoint"))
    with pytest.raises(ValueError, match=r"theirs.ckpt"):
        load(network(), path, trust=trust)


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated")
@pytest.mark.parametrize("trust", [False, True])
def test_archives_of_programs_are_named_with_how_to_use_them(tmp_path: Path, trust: bool) -> None:
    torch.jit.save(torch.jit.script(network()), tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"TorchScript archive.*torch\.jit\.load"):
        load(network(), tmp_path / "script.pt", trust=trust)
    torch.export.save(torch.export.export(network(), (torch.randn(2, 16),)), tmp_path / "program.pt2")
    with pytest.raises(ValueError, match=r"torch\.export.*\.module\(\)"):
        load(network(), tmp_path / "program.pt2", trust=trust)


# Stripping -----------------------------------------------------------------------------------------------------------


class Own(LightningModule):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.make = make
        self.model = network()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def test_a_checkpoint_of_ones_own_is_stripped_and_keeps_its_objects(
    quick_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    make = functools.partial(torch.optim.SGD, lr=0.1)
    data = DataLoader(TensorDataset(torch.randn(8, 16), torch.arange(8) % 10), batch_size=4)
    layer = next(name for name, part in network().named_modules() if isinstance(part, nn.Linear))
    distill = Distill(network(6), {"hint": Hint(layer, layer)}, {"hint": 1.0})
    trainer = quick_trainer(callbacks=[distill])
    module = Own(make)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"functools\.partial.*--trust"):
        strip_file(tmp_path / "last.ckpt", tmp_path / "plain.ckpt")
    assert not (tmp_path / "plain.ckpt").exists()
    main(["strip", "--trust", str(tmp_path / "last.ckpt"), str(tmp_path / "plain.ckpt")])
    found = torch.load(tmp_path / "plain.ckpt", weights_only=False)
    assert not any(key.startswith("lit_distill") for key in [*found, *found["state_dict"]])
    assert found["hyper_parameters"]["make"].keywords == {"lr": 0.1}
    again = Own.load_from_checkpoint(tmp_path / "plain.ckpt", weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))


def test_stripping_in_place_loses_nothing_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint(0.1, **{"lit_distill": {}}), path)
    before = path.read_bytes()

    def full(place: Any, content: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stripping, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        strip_file(path, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_without_trust_the_command_line_says_one_line(tmp_path: Path) -> None:
    torch.save(checkpoint(argparse.Namespace(lr=0.1)), tmp_path / "theirs.ckpt")
    with pytest.raises(SystemExit, match=r"^lit-distill strip: .*argparse\.Namespace.*--trust") as caught:
        main(["strip", str(tmp_path / "theirs.ckpt"), str(tmp_path / "out.ckpt")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trust", [False, True])
def test_a_config_says_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trust: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": SmallCNN(6).state_dict(), "args": argparse.Namespace(lr=0.1)}, "theirs.ckpt")
    network = {"class_path": "lit_distill.models.SmallCNN", "init_args": {"width": 6}}
    given = {"model": network, "checkpoint": "theirs.ckpt", "trust": trust}
    config = {
        "model": {
            "class_path": "lit_distill.LogitDistillation",
            "init_args": {
                "student": {"class_path": "lit_distill.models.SmallCNN", "init_args": {"width": 4}},
                "teacher": {"class_path": "lit_distill.models.load", "init_args": given},
            },
        },
        "data": {"class_path": "lit_distill.data.Digits"},
        "trainer": {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": 1, "logger": False}
        | {"enable_progress_bar": False, "enable_checkpointing": False},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    if trust:
        main(["fit", "--config", "run.yaml"])
        return
    with pytest.raises(SystemExit):
        main(["fit", "--config", "run.yaml"])
    assert "run.yaml: theirs.ckpt holds Python objects" in (said := capsys.readouterr().err)
    assert "`trust: true`" in said
